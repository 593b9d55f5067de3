-- What is older than the settings say is removed by its time.
create index vm_events_by_time on vm_events (at);
create index connection_events_by_time on connection_events (at);
create index audit_by_time on audit (at);
