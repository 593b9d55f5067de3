update vms set state = 'running', pid = $2, pid_start = $3, boot_id = $4, accel = $5, started_at = now(), started_up = $6
where vmid = $1 and state = 'starting'
