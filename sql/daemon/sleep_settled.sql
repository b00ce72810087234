-- outboxd: sleep_settled
-- Have all transactions ended that may have seen the register say "awake"?
-- $1 xid8 as text, $2 holders text[] from sleep_barrier
-- Columns: boolean.
SELECT
    pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8
    OR NOT EXISTS (
        SELECT FROM pg_locks AS l
        WHERE l.locktype = 'relation'
            AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
            AND l.relation = 'sms.outbox'::regclass
            AND (
                l.virtualtransaction = ANY ($2)
                -- Prepared: it has another name now, no process, and did not ring, or it could not have been prepared.
                OR (
                    l.pid IS NULL
                    AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
                )
            )
    )
