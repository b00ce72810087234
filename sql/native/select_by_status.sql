-- outboxd: select_by_status
-- The next ids in a state, for bulk commands with a progress bar.
-- $1 status text, $2 after id bigint, $3 queued within so many seconds double precision or NULL: ever, $4 limit bigint
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
    AND ($3::double precision IS NULL OR o.created_at >= now() - make_interval(secs => $3))
ORDER BY o.id
LIMIT $4
