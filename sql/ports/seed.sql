insert into ports (kind, port) select $1, port from generate_series($2::int, $3::int) as port on conflict do nothing
