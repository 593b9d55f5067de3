select id, rule, subject, value, threshold, text, since, ended
from alerts where ($2::bigint is null or id < $2) order by id desc limit $1
