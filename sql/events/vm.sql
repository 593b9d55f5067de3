insert into vm_events (at, vmid, kind, detail)
select $1, $2, $3, $4
where not exists (select from vm_events where at = $1 and vmid = $2 and kind = $3 and detail = $4)
