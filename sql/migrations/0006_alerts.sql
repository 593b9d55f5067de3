-- What the sampler told people about the host; one row from the first word of it to its end.
create table alerts (
    id        bigserial primary key,
    rule      text not null,
    -- The host, a volume's path, a user's login name or a vmid.
    subject   text not null,
    value     double precision not null,
    threshold double precision not null,
    text      text not null,
    since     timestamptz not null,
    ended     timestamptz,
    unique (rule, subject, since)
);
