select quota_gb from users where id = $1
