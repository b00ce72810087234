-- outboxd: settle_noted
-- Gives rows a result that was noted when they were out of sight: moved away with their table or partition while their
-- message was under way, or hidden by a policy, and now back. Or because something else had counted the attempt before: the
-- note is then younger than the last time that the row was queued. Without this they would be sent again.
-- $1 ids bigint[] that a wave left out
-- Columns: id. Locks: the rows. Called by dispatch.
UPDATE sms.outbox AS o
SET status = n.verdict,
    attempts = greatest(o.attempts, n.attempt),
    sent_via = n.gateway,
    gateway_ref = n.gateway_ref,
    sent_at = n.at,
    error_code = CASE WHEN n.verdict = 'unknown' THEN 'outcome_unknown' END,
    error = CASE WHEN n.verdict = 'unknown' THEN n.note END
FROM (
    SELECT DISTINCT ON (a.message_id, a.row_made)
        a.message_id, a.row_made, a.attempt, a.verdict, a.gateway, a.gateway_ref, a.at, a.note,
        q.attempts AS attempts_then, q.send_after AS due_then
    FROM outboxd.attempt AS a
    JOIN sms.outbox AS q ON q.id = a.message_id AND q.created_at = a.row_made
    WHERE a.message_id = ANY ($1)
        AND a.verdict IN ('accepted', 'unknown')
        -- As in wave.
        AND (
            a.attempt > q.attempts
            OR (a.at > q.send_after AND (a.verdict = 'accepted' OR a.attempt = q.attempts))
        )
    -- Of one attempt, what is known for certain counts.
    ORDER BY a.message_id, a.row_made, a.attempt DESC, a.verdict
) AS n
WHERE o.id = n.message_id
    AND o.created_at = n.row_made
    AND o.attempts = n.attempts_then
    AND o.send_after = n.due_then
    -- Not o.queued, as in wave.
    AND o.status = 'queued'
    AND NOT o.held
RETURNING o.id
