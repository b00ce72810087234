-- outboxd: due_again
-- After the database's clock was set back: rows that were due as soon as they were queued would wait until it comes there
-- again. They are due now. What its application scheduled goes by the clock, whatever that says.
-- $1 where the clock had been, in microseconds since 1970 bigint
-- Columns: id. Locks: at most 10,000 rows a lane; skips locked ones. Called by dispatch, at the poll.
UPDATE sms.outbox AS o
SET send_after = now()
FROM (
    SELECT r.id
    FROM (VALUES ('urgent'), ('normal'), ('bulk')) AS l(lane)
    CROSS JOIN LATERAL (
        SELECT e.id
        FROM sms.outbox AS e
        WHERE e.queued
            AND e.status = 'queued'
            AND e.lane = l.lane
            AND e.send_after > now()
            AND e.send_after <= to_timestamp($1::bigint / 1000000.0)
            AND e.send_after <= e.created_at
        ORDER BY e.send_after, e.id
        LIMIT 10000
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS r
) AS due
WHERE o.id = due.id
RETURNING o.id
