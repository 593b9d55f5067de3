select detail from vm_events where vmid = $1 and kind = 'stopping' order by id desc limit 1
