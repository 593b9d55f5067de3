select id, user_id, shared, resumable, name, format, profile, metadata, size, verified_to, state, expires_at from uploads where id = $1 and ($2::text is null or user_id = $2)
