select id, email, login, role, disabled, created_at, last_seen_at, quota_gb from users
where ($1 = '' or strpos(lower(email), $1) > 0 or strpos(lower(login), $1) > 0 or role = $1 or id = $1)
    and ($3::text is null or (created_at, id) < (select created_at, id from users where id = $3))
order by created_at desc, id desc limit $2
