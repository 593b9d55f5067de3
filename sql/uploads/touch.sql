update uploads set verified_to = $2, expires_at = $3 where id = $1
