select coalesce(sum(size) filter (where not shared), 0)::bigint as bytes, count(*) as uploads
from uploads where user_id = $1 and state = 'open'
