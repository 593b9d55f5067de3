-- A VM that runs and has no process is between two: whoever finds it so starts the other one.
update vms set pid = null, pid_start = null
where vmid = $1 and state = 'running'
