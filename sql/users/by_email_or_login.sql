-- An address has an @, a login name has none: at most one row.
select id, email, login, role, disabled, created_at, password_phc
from users where lower(email) = $1 or lower(login) = $1
order by (lower(email) = $1) desc limit 1
