select max(at), coalesce(sum(bytes_to_browser), 0)::bigint, coalesce(sum(bytes_to_vm), 0)::bigint
from connection_events where vmid = $1
