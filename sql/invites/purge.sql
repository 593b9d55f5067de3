delete from invites where expires_at < now()
