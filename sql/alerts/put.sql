insert into alerts (rule, subject, value, threshold, text, since, ended) values ($1, $2, $3, $4, $5, $6, $7)
on conflict (rule, subject, since) do update set value = $3, threshold = $4, text = $5, ended = $7 where alerts.ended is null
