-- outboxd: sleep_barrier
-- Begins the wait for transactions that may have seen the register say "awake". Runs after the register was written,
-- in a transaction of its own: a snapshot taken together with the change misses an open inserter.
-- Columns: xid8 as text, transactions that hold a write lock on the outbox text[] (prepared ones included).
SELECT
    pg_current_xact_id()::text,
    coalesce((
        SELECT array_agg(DISTINCT l.virtualtransaction)
        FROM pg_locks AS l
        WHERE l.locktype = 'relation'
            AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
            AND l.relation = 'sms.outbox'::regclass
            AND l.granted
            AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
            AND l.pid IS DISTINCT FROM pg_backend_pid()
    ), '{}')
