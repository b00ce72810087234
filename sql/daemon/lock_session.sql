-- outboxd: lock_session
-- Tries to become leader: the advisory lock belongs to this session and goes with it.
-- $1 key bigint
-- Columns: got it boolean, process id integer.
SELECT
    pg_try_advisory_lock($1),
    pg_backend_pid()
