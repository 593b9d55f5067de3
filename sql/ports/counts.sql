-- Of one profile's range; rows of ranges that were set in other days are nobody's.
select kind, count(*) filter (where vmid is null and free_after <= now()), count(*) filter (where vmid is not null),
    count(*) filter (where vmid is null and free_after > now())
from ports where (kind = 'vnc' and port between $1 and $2) or (kind = 'http' and port between $3 and $4)
group by kind order by kind
