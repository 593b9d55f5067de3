update vms set last_input_at = $2, last_input_up = $3 where vmid = $1
