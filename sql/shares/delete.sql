delete from shares where id = $1 and vmid = $2 returning token_hash
