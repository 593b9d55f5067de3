select c.id, c.at, c.vmid, u.login, c.kind, c.console, c.ip, c.bytes_to_browser, c.bytes_to_vm, c.reason, c.seconds
from connection_events c left join users u on u.id = c.user_id
where ($2::bigint is null or c.id < $2) order by c.id desc limit $1
