update uploads set expires_at = $2 where id = $1
