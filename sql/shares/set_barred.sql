update shares set barred = $2 where token_hash = $1
