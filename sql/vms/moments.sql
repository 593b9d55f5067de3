select started_at, started_up, last_input_at, last_input_up from vms where vmid = $1
