insert into connection_events (at, vmid, user_id, kind, console, ip, bytes_to_browser, bytes_to_vm, reason, seconds)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
where not exists (
    select from connection_events
    where at = $1 and vmid = $2 and user_id is not distinct from $3 and kind = $4 and console = $5 and ip = $6
)
