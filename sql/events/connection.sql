insert into connection_events (at, visit, vmid, user_id, kind, console, ip, bytes_to_browser, bytes_to_vm, reason, seconds, via)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
on conflict (visit, kind) do nothing
