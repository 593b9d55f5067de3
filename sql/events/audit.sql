insert into audit (user_id, ip, action, target, detail) values ($1, $2, $3, $4, $5)
