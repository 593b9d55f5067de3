insert into connection_events (visit, vmid, user_id, kind, console, ip, bytes_to_browser, bytes_to_vm, reason)
select visit, vmid, user_id, 'disconnect', console, ip, 0, 0, $1
from connection_events came
where kind = 'connect' and visit is not null
    and not exists (select from connection_events where visit = came.visit and kind = 'disconnect')
on conflict (visit, kind) do nothing
