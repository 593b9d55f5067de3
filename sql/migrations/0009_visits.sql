-- The two rows of one screen or terminal that was open. Rows of before have none.
alter table connection_events add column visit text;
create unique index connection_events_of_visit on connection_events (visit, kind);

-- Control was taken from who came with this link, and does not come back with another server.
alter table shares add column barred boolean not null default false;
