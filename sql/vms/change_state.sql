update vms set state = $3 where vmid = $1 and state = any($2)
