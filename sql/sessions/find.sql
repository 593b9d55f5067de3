select u.id, u.email, u.login, u.role, u.disabled, u.created_at, s.expires_at
from sessions s join users u on u.id = s.user_id
where s.token_hash = $1 and s.expires_at > now() and not u.disabled
