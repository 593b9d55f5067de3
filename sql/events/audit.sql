insert into audit (at, user_id, ip, action, target, detail)
select $1, $2, $3, $4, $5, $6
where not exists (
    select from audit
    where at = $1 and user_id is not distinct from $2 and ip = $3 and action = $4 and target = $5 and detail = $6
)
