-- outboxd: lock_key
-- Tries to become leader: the advisory lock belongs to this session and goes with it.
-- $1 key bigint. Columns: boolean.
SELECT pg_try_advisory_lock($1)
