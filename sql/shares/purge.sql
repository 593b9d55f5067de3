delete from shares where expires_at < now()
