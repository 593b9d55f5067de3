-- What has passed through screens that are open: a server that is killed cannot write it down at their end.
update connection_events set bytes_to_browser = now.down, bytes_to_vm = now.up
from unnest($1::text[], $2::bigint[], $3::bigint[]) as now (visit, down, up)
where connection_events.visit = now.visit and kind = 'connect'
