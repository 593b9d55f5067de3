insert into users (id, email, login, role, password_phc) values ($1, $2, $3, $4, $5)
returning id, email, login, role, disabled, created_at
