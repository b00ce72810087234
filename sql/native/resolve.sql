-- outboxd: resolve
-- A person says what became of unknown messages.
-- $1 ids bigint[], $2 status text (accepted, delivered, failed, queued), $3 who text
-- Columns: id. Locks: the rows. Called by outboxd resolve.
WITH chosen AS (
    SELECT u.id, u.created_at, u.attempts, u.gateway_ref, u.sent_via
    FROM sms.outbox AS u
    WHERE u.id = ANY ($1::bigint[])
        AND u.status = 'unknown'
    ORDER BY u.id
    FOR NO KEY UPDATE
), remembered AS (
    INSERT INTO outboxd.attempt (message_id, row_made, attempt, gateway, gateway_ref, verdict, note)
    SELECT c.id, c.created_at, c.attempts, c.sent_via, c.gateway_ref, 'unknown', format('resolved as %s by %s', $2::text, $3::text)
    FROM chosen AS c
)
UPDATE sms.outbox AS o
SET status = $2::text,
    send_after = CASE WHEN $2::text = 'queued' THEN now() ELSE o.send_after END,
    final_at = CASE WHEN $2::text IN ('delivered', 'failed') THEN now() END,
    error_code = CASE WHEN $2::text = 'failed' THEN 'resolved' END,
    error = CASE WHEN $2::text = 'failed' THEN format('declared failed by %s', $3::text) END
FROM chosen AS c
WHERE o.id = c.id
RETURNING o.id
