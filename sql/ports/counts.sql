select kind, count(*) filter (where vmid is null and free_after <= now()), count(*) filter (where vmid is not null),
    count(*) filter (where vmid is null and free_after > now())
from ports group by kind order by kind
