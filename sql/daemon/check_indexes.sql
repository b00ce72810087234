-- outboxd: check_indexes
-- Indexes of the outbox that are missing, or invalid after a CREATE INDEX CONCURRENTLY that failed.
-- Columns: name.
-- Locks: none. Called by outboxd check.
SELECT w.name
FROM unnest(ARRAY[
    'outbox_pkey', 'outbox_queued', 'outbox_expiring', 'outbox_unresolved', 'outbox_held', 'outbox_client_ref',
    'outbox_sent', 'outbox_overdue'
]) AS w(name)
WHERE NOT EXISTS (
    SELECT FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indexrelid
    WHERE c.relname = w.name
        AND i.indrelid = to_regclass('sms.outbox')
        AND i.indisvalid
)
ORDER BY w.name
