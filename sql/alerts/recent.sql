select id, rule, subject, value, threshold, text, since, ended
from alerts
where ($2::bigint is null or id < $2)
    and ($3 = '' or strpos(lower(rule), $3) > 0 or strpos(lower(subject), $3) > 0 or strpos(lower(text), $3) > 0)
order by id desc limit $1
