-- outboxd: lock_transaction
-- Tries to become leader behind a transaction pooler: the advisory lock belongs to this transaction and goes with it.
-- The transaction stays open while we lead. It has neither a snapshot between its statements nor a transaction id, so
-- that it holds up no vacuum.
-- $1 key bigint
-- Columns: got it boolean, process id integer.
SELECT
    pg_try_advisory_xact_lock($1),
    pg_backend_pid()
