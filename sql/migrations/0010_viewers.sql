-- Who looked: owner, teacher, admin, or which link. Rows of before say nothing.
alter table connection_events add column via text not null default '';
