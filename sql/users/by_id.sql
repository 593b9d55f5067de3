select id, email, login, role, disabled, created_at, last_seen_at, quota_gb from users where id = $1
