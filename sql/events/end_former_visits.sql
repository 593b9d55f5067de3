insert into connection_events (visit, vmid, user_id, kind, console, ip, bytes_to_browser, bytes_to_vm, reason, seconds, via)
select visit, vmid, user_id, 'disconnect', console, ip, bytes_to_browser, bytes_to_vm, $1,
    extract(epoch from now() - at)::int, via
from connection_events came
where kind = 'connect' and visit is not null
    and not exists (select from connection_events where visit = came.visit and kind = 'disconnect')
on conflict (visit, kind) do nothing
