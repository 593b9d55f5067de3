-- When a key, a pointer movement or a typed byte last came, as far as it was written down (at most once a minute): the idle limit of a VM
-- goes on from here when another server takes it back.
alter table vms add column last_input_at timestamptz;
