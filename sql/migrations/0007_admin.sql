-- What administrators see and set of accounts. Without a quota of one's own the settings' hold.
alter table users add column quota_gb integer check (quota_gb > 0);
alter table users add column last_seen_at timestamptz;
update users u set last_seen_at = (select max(s.created_at) from sessions s where s.user_id = u.id);

-- Invitations can be listed and taken back: a name that may be told (the code itself is nowhere), how many there were, what for, by whom.
alter table invites add column id text;
update invites set id = substr(md5(random()::text || clock_timestamp()::text), 1, 12);
alter table invites alter column id set not null;
alter table invites add constraint invites_id_key unique (id);
alter table invites add constraint invites_id_check check (id ~ '^[0-9a-f]{12}$');
alter table invites add column uses integer;
update invites set uses = uses_left;
alter table invites alter column uses set not null;
alter table invites add column note text not null default '';
alter table invites add column created_by text references users on delete set null;
