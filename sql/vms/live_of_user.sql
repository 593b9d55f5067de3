select v.vmid, v.user_id, u.login, u.role, v.profile, v.iso, v.persistence, v.disk, v.disk_gb, v.memory_mb, v.cpus, v.vnc_port, v.http_port,
    v.state, v.pid, v.pid_start, v.boot_id, v.accel, v.created_at, v.started_at, v.ended_at, v.exit
from vms v join users u on u.id = v.user_id
where v.user_id = $1 and v.state in ('starting', 'running', 'stopping')
