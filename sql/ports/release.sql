update ports set vmid = null, free_after = now() + make_interval(secs => $2) where vmid = $1
