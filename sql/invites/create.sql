insert into invites (id, code_hash, role, uses, uses_left, expires_at, note, created_by)
select $1::text, $2::bytea, $3::text, $4::integer, $4::integer, now() + make_interval(days => $5::integer), $6::text, $7::text
where $8::bigint = 0 or (select count(*) from invites) < $8::bigint
returning id, role, uses, uses_left, created_at, expires_at, note, (select login from users where users.id = $7::text) as created_by
