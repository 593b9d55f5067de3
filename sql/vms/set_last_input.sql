update vms set last_input_at = $2 where vmid = $1
