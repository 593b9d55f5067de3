-- Whole seconds until the first resting port is free again, at least one; no row when none rests.
select greatest(1, ceil(extract(epoch from min(free_after) - now())))::bigint from ports
where kind = $1 and port between $2 and $3 and vmid is null
having min(free_after) is not null
