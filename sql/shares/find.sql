select id, vmid, token_hash, control, barred, created_at, expires_at from shares where token_hash = $1 and expires_at > now()
