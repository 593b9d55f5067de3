insert into connection_events (vmid, user_id, kind, console, ip, bytes_to_browser, bytes_to_vm, reason, seconds)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
