-- Unfinished uploads; the bytes are in the user's folder. What is finished stays for a while, so that a client whose answer was lost
-- learns that it is.
create table uploads (
    id          text primary key check (id ~ '^[0-9a-f]{32}$'),
    user_id     text not null references users on delete cascade,
    -- For all, not for its user alone.
    shared      boolean not null,
    -- By tus; a form cannot be resumed.
    resumable   boolean not null,
    name        text not null,
    format      text not null check (format in ('iso', 'qcow2', 'raw')),
    profile     text not null,
    metadata    text not null,
    -- Bytes it has when whole; of a form at most that many.
    size        bigint not null check (size >= 0),
    -- While a piece with a checksum comes: what counts of the file if the server ends.
    verified_to bigint,
    state       text not null check (state in ('open', 'done')),
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null
);
create index uploads_of_user on uploads (user_id);
create index uploads_by_expiry on uploads (expires_at);

-- The kept disk a VM has, by name.
alter table vms add column disk text;
alter table vms add column disk_gb integer;
-- A disk is in one live VM at a time: the rule itself, beside the one of users.
create unique index one_live_vm_per_disk on vms (user_id, disk)
    where disk is not null and state in ('starting', 'running', 'stopping');
