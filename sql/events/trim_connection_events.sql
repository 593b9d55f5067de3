delete from connection_events where id in (select id from connection_events where at < now() - make_interval(days => $1) order by at limit $2)
