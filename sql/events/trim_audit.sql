delete from audit where id in (select id from audit where at < now() - make_interval(days => $1) order by at limit $2)
