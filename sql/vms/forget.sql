delete from vms where vmid = $1
