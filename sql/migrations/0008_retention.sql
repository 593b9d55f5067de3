-- How long a screen or terminal was open; null where that is not known.
alter table connection_events add column seconds integer;

-- What is older than the settings say is removed by its time.
create index vm_events_by_time on vm_events (at);
create index connection_events_by_time on connection_events (at);
create index audit_by_time on audit (at);
