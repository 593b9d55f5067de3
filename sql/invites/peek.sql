select role from invites where code_hash = $1 and uses_left > 0 and expires_at > now()
