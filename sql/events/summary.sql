select max(at), coalesce(sum(bytes_to_browser) filter (where kind = 'disconnect'), 0)::bigint,
    coalesce(sum(bytes_to_vm) filter (where kind = 'disconnect'), 0)::bigint
from connection_events where vmid = $1
