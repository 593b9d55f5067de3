delete from vm_events where id in (select id from vm_events where at < now() - make_interval(days => $1) order by at limit $2)
