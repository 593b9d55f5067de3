update vms set pid = $2, pid_start = $3, boot_id = $4, accel = coalesce($5, accel)
where vmid = $1 and state in ('starting', 'running', 'stopping')
