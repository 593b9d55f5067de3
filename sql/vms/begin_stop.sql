-- A power cycle strikes the process first: whoever then wants to end the former one is too late.
update vms set state = 'stopping'
where vmid = $1 and state = 'running' and pid = $2 and pid_start = $3
