-- outboxd: lock_holders
-- Who holds a lock that can keep the daemon from reading rows, committing waves or writing results.
-- $1 whether who may have locked single rows of the outbox counts too boolean
-- Columns: one text, or NULL when nobody does. Locks: none. Called by dispatch and the recorder, to say what they wait for.
-- A write to outboxd.leader counts too: sms.hold in a transaction that is still open locks its row.
SELECT string_agg(
    DISTINCT CASE
        WHEN l.pid IS NULL THEN format('a prepared transaction (%s on %s)', l.mode, l.relation::regclass)
        ELSE format('process %s of %s (%s on %s)', l.pid, a.usename, l.mode, l.relation::regclass)
    END,
    ', '
)
FROM pg_locks AS l
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'relation'
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND l.granted
    AND l.pid IS DISTINCT FROM pg_backend_pid()
    AND (
        (
            l.relation IN ('sms.outbox'::regclass, 'outboxd.wave'::regclass, 'outboxd.leader'::regclass)
            AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        )
        OR (l.relation = 'outboxd.leader'::regclass AND l.mode = 'RowExclusiveLock')
        OR (
            $1
            AND l.relation = 'sms.outbox'::regclass
            AND l.mode IN ('RowShareLock', 'RowExclusiveLock')
            -- Not those that come and go; NULL: we may not know.
            AND (a.xact_start IS NULL OR a.xact_start < now() - interval '1 s')
        )
    )
