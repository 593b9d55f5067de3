select id, at, kind, detail from vm_events
where vmid = $1 and ($3::bigint is null or id < $3) order by id desc limit $2
