select a.id, a.at, u.login, a.ip, a.action, a.target, a.detail
from audit a left join users u on u.id = a.user_id
where ($1 = '' or strpos(lower(a.action), $1) > 0 or strpos(lower(a.target), $1) > 0 or strpos(lower(a.detail), $1) > 0
        or strpos(a.ip, $1) > 0 or strpos(lower(u.login), $1) > 0)
    and ($3::bigint is null or a.id < $3)
order by a.id desc limit $2
