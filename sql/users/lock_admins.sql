-- One after the other: two administrators who take each other's rights away at once must not both succeed.
select id from users where role = 'admin' and not disabled order by id for update
