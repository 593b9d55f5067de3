select i.id, i.role, i.uses, i.uses_left, i.created_at, i.expires_at, i.note, u.login as created_by
from invites i left join users u on u.id = i.created_by
where i.expires_at > now() order by i.created_at desc, i.id
