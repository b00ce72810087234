-- outboxd: resend
-- The policy on_unknown = "resend-after": queues again what has been unknown for long enough, and remembers the
-- attempt that is given up, so that its late receipt still finds the message.
-- $1 gateway text, $2 age in seconds double precision
-- Columns: id. Locks: at most 1,000 rows; skips locked ones. Called by sweep.
WITH due AS (
    SELECT u.id, u.created_at, u.attempts, u.gateway_ref, u.sent_via
    FROM sms.outbox AS u
    WHERE u.unresolved
        AND u.sent_via = $1
        AND u.sent_at < now() - make_interval(secs => $2)
    ORDER BY u.id
    LIMIT 1000
    FOR NO KEY UPDATE SKIP LOCKED
), remembered AS (
    INSERT INTO outboxd.attempt (message_id, row_made, attempt, gateway, gateway_ref, verdict, note)
    SELECT d.id, d.created_at, d.attempts, d.sent_via, d.gateway_ref, 'unknown', 'sent again by the policy on_unknown'
    FROM due AS d
)
UPDATE sms.outbox AS o
SET status = 'queued',
    send_after = now(),
    error_code = 'resending',
    error = 'the outcome of an earlier attempt is unknown; it is being sent again'
FROM due AS d
WHERE o.id = d.id
RETURNING o.id
