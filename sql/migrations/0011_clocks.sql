-- The same moments by a clock that nobody sets: seconds since the host's boot (boot_id), without those it slept. Times of the wall clock
-- tell people when it was; limits are counted by these. Rows of before have none.
alter table vms add column started_up double precision;
alter table vms add column last_input_up double precision;
