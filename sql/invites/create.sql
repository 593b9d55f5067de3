insert into invites (code_hash, role, uses_left, expires_at) values ($1, $2, $3, now() + make_interval(days => $4))
