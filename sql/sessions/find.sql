-- Asked at most twice a minute for each session; that somebody was there is noted once a minute.
with found as (
    select u.id, u.email, u.login, u.role, u.disabled, u.created_at, u.last_seen_at, s.expires_at
    from sessions s join users u on u.id = s.user_id
    where s.token_hash = $1 and s.expires_at > now() and not u.disabled),
seen as (
    update users set last_seen_at = now() from found
    where users.id = found.id and (found.last_seen_at is null or found.last_seen_at < now() - interval '1 minute'))
select id, email, login, role, disabled, created_at, expires_at from found
