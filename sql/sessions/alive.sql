select s.token_hash, u.role from sessions s join users u on u.id = s.user_id
where s.token_hash = any($1) and s.expires_at > now() and not u.disabled
