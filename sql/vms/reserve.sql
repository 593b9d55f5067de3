insert into vms (vmid, user_id, profile, iso, persistence, memory_mb, cpus, vnc_port, http_port, disk, disk_gb, state)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'starting')
on conflict (user_id) where state in ('starting', 'running', 'stopping') do nothing
returning vmid
