-- outboxd: lock_holders
-- Who holds a lock that can keep the daemon from reading rows, committing waves or writing results.
-- Columns: one text, or NULL when nobody does. Locks: none. Called by dispatch, to say why nothing is sent.
-- A write to outboxd.leader counts too: sms.hold in a transaction that is still open locks its row.
SELECT string_agg(DISTINCT format('process %s of %s (%s on %s)', l.pid, a.usename, l.mode, l.relation::regclass), ', ')
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
    )
