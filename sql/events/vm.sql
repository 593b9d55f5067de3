insert into vm_events (vmid, kind, detail) values ($1, $2, $3)
