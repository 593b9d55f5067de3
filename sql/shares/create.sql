insert into shares (id, vmid, token_hash, control, expires_at)
select $1, $2, $3, $4, $5 where (select count(*) from shares where vmid = $2) < $6
