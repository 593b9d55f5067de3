delete from shares where vmid in (select vmid from vms where user_id = $1)
