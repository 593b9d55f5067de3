select c.id, c.at, c.vmid, u.login, c.kind, c.console, c.ip,
    case when c.kind = 'disconnect' then c.bytes_to_browser else 0 end,
    case when c.kind = 'disconnect' then c.bytes_to_vm else 0 end, c.reason, c.seconds, c.via
from connection_events c left join users u on u.id = c.user_id
where ($2::bigint is null or c.id < $2)
    and ($3 = '' or strpos(lower(u.login), $3) > 0 or strpos(c.vmid, $3) > 0 or strpos(c.ip, $3) > 0
        or strpos(c.kind, $3) > 0 or strpos(c.console, $3) > 0 or strpos(lower(c.reason), $3) > 0 or strpos(c.via, $3) > 0)
order by c.id desc limit $1
