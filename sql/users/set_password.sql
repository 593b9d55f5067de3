update users set password_phc = $2 where id = $1
