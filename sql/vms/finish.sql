update vms set state = $2, exit = $3, ended_at = now()
where vmid = $1 and state in ('starting', 'running', 'stopping')
