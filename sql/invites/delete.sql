delete from invites where id = $1 returning note
