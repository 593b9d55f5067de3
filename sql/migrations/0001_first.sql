-- Everything the server must remember. Times are timestamptz; ids are made by the server.

create table users (
    id           text primary key check (id ~ '^[0-9a-f]{12}$'),
    email        text not null,
    login        text not null,
    role         text not null check (role in ('user', 'teacher', 'admin')),
    password_phc text not null,
    disabled     boolean not null default false,
    created_at   timestamptz not null default now()
);
create unique index users_email_key on users (lower(email));
create unique index users_login_key on users (lower(login));

-- Tokens themselves are nowhere, only their keyed hashes.
create table sessions (
    token_hash bytea primary key,
    user_id    text not null references users on delete cascade,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    ip         text not null
);
create index sessions_user on sessions (user_id);
create index sessions_expiry on sessions (expires_at);

create table invites (
    code_hash  bytea primary key,
    role       text not null check (role in ('user', 'teacher', 'admin')),
    uses_left  integer not null check (uses_left >= 0),
    expires_at timestamptz not null,
    created_at timestamptz not null default now()
);

create table vms (
    vmid        text primary key check (vmid ~ '^[0-9a-f]{12}$'),
    user_id     text not null references users on delete cascade,
    profile     text not null,
    iso         text not null,
    persistence text not null,
    memory_mb   integer not null,
    cpus        integer not null,
    vnc_port    integer not null,
    http_port   integer not null,
    state       text not null check (state in ('starting', 'running', 'stopping', 'stopped', 'failed')),
    -- A process is its number and its start time, on one boot of the host.
    pid         integer,
    pid_start   bigint,
    boot_id     text,
    accel       text,
    created_at  timestamptz not null default now(),
    started_at  timestamptz,
    ended_at    timestamptz,
    exit        text
);
-- One live VM a user: the rule itself, not a check before it.
create unique index one_live_vm_per_user on vms (user_id) where state in ('starting', 'running', 'stopping');
create index vms_of_user on vms (user_id, created_at desc);
create index vms_by_time on vms (created_at desc);

-- A port is a row, taken in the transaction that makes the VM.
create table ports (
    kind       text not null check (kind in ('vnc', 'http')),
    port       integer not null,
    vmid       text,
    free_after timestamptz not null default '-infinity',
    primary key (kind, port)
);
create index ports_of_vm on ports (vmid) where vmid is not null;

create table vm_events (
    id     bigserial primary key,
    vmid   text not null,
    at     timestamptz not null default now(),
    kind   text not null,
    detail text not null
);
create index vm_events_of_vm on vm_events (vmid, id);

create table connection_events (
    id               bigserial primary key,
    vmid             text not null,
    user_id          text,
    at               timestamptz not null default now(),
    kind             text not null check (kind in ('connect', 'disconnect')),
    console          text not null,
    ip               text not null,
    bytes_to_browser bigint not null,
    bytes_to_vm      bigint not null,
    reason           text not null
);
create index connection_events_of_vm on connection_events (vmid, id);

create table audit (
    id      bigserial primary key,
    at      timestamptz not null default now(),
    user_id text,
    ip      text not null,
    action  text not null,
    target  text not null,
    detail  text not null
);
