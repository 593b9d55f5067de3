with purged as (delete from sessions where expires_at < now()),
     begun as (insert into sessions (token_hash, user_id, expires_at, ip) values ($1, $2, $3, $4)),
     seen as (update users set last_seen_at = now() where id = $2)
insert into audit (user_id, ip, action, target, detail) select $2::text, $4::text, $5::text, $6::text, '' where $5::text <> ''
