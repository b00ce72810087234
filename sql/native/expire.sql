-- outboxd: expire
-- Ends rows whose expires_at passed while their gateway was not sending. What may have been sent before a failover is left
-- to be set aside: nobody knows that it was not.
-- $1 margin in seconds double precision: longer than any request takes, so that nothing under way is touched,
-- $2 ids bigint[] that are in memory and looked after there
-- Columns: id. Locks: at most 1,000 rows; skips locked ones. Called by sweep.
UPDATE sms.outbox AS o
SET status = 'expired',
    final_at = now(),
    error_code = 'expired',
    -- As dispatch says it of those that it has read.
    error = CASE o.attempts
        WHEN 0 THEN 'expires_at passed before it could be sent'
        ELSE 'expires_at passed before it could be sent again; if an earlier attempt had no answer, outboxd.attempt says so'
    END
FROM (
    SELECT e.id
    FROM sms.outbox AS e
    CROSS JOIN outboxd.leader AS l
    WHERE e.queued
        -- As in discover.
        AND e.status = 'queued'
        AND NOT e.held
        AND e.expires_at IS NOT NULL
        AND e.expires_at < now() - make_interval(secs => $1)
        AND e.id <> ALL ($2::bigint[])
        AND (e.id <= l.uncertain_id AND e.created_at <= l.uncertain_before AND e.send_after <= l.uncertain_due) IS NOT TRUE
    ORDER BY e.expires_at
    LIMIT 1000
    FOR NO KEY UPDATE OF e SKIP LOCKED
) AS due
WHERE o.id = due.id
RETURNING o.id
