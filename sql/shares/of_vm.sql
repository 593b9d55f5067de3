select id, vmid, token_hash, control and not barred as control, barred, created_at, expires_at from shares where vmid = $1 and expires_at > now() order by created_at, id
