insert into uploads (id, user_id, shared, resumable, name, format, profile, metadata, size, state, expires_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'open', $10)
