select last_input_at from vms where vmid = $1
