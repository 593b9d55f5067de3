delete from alerts where id <= (select max(id) from alerts) - $1
