insert into sessions (token_hash, user_id, expires_at, ip) values ($1, $2, $3, $4)
