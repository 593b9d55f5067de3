-- When a key, a pointer movement or a typed byte last came, as far as it was written down (at most once a minute): the idle limit of a VM
-- goes on from here when another server takes it back.
alter table vms add column last_input_at timestamptz;

-- Links to a VM's consoles. The tokens themselves are nowhere, only their keyed hashes.
create table shares (
    id         text primary key check (id ~ '^[0-9a-f]{12}$'),
    vmid       text not null references vms on delete cascade,
    token_hash bytea not null unique,
    control    boolean not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);
create index shares_of_vm on shares (vmid, created_at);
create index shares_expiry on shares (expires_at);
