update users set role = coalesce($2, role), disabled = coalesce($3, disabled),
    quota_gb = case when $4::integer is null then quota_gb else nullif($4, 0) end
where id = $1
returning id, email, login, role, disabled, created_at, last_seen_at, quota_gb
