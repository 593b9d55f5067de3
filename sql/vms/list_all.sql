select v.vmid, v.user_id, u.login, u.role, v.profile, v.iso, v.persistence, v.disk, v.disk_gb, v.memory_mb, v.cpus, v.vnc_port, v.http_port,
    v.state, v.pid, v.pid_start, v.boot_id, v.accel, v.created_at, v.started_at, v.ended_at, v.exit
from vms v join users u on u.id = v.user_id
where ($4::text is null or u.role = 'user' or u.id = $4)
    and ($3::timestamptz is null or ((v.state in ('starting', 'running', 'stopping')), v.created_at) < ($2, $3))
order by (v.state in ('starting', 'running', 'stopping')) desc, v.created_at desc limit $1
