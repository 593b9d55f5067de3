update uploads set state = 'done', verified_to = null where id = $1
