select id, email, login, role, disabled, created_at from users order by created_at, id
