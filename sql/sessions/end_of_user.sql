delete from sessions where user_id = $1 returning token_hash
