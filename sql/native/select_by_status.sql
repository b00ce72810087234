-- outboxd: select_by_status
-- The next ids in a state, for bulk commands with a progress bar.
-- $1 status text, $2 after id bigint, $3 since timestamptz, $4 limit bigint
-- Columns: id. Locks: none.
SELECT o.id
FROM sms.outbox AS o
WHERE o.id > $2
    AND (
        CASE $1
            WHEN 'unknown' THEN o.unresolved
            WHEN 'held' THEN o.held
            WHEN 'queued' THEN o.queued
            ELSE o.status = $1
        END
    )
    AND o.created_at >= $3
ORDER BY o.id
LIMIT $4
