select id, login from users where id = any($1)
