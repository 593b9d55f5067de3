-- Whoever else takes ports at this moment is passed by, not waited for.
update ports set vmid = $1
where (kind, port) = (
    select kind, port from ports
    where kind = $2 and port between $3 and $4 and vmid is null and free_after <= now()
    order by port limit 1 for update skip locked)
returning port
