-- outboxd: next_due
-- Seconds until the next scheduled row of any lane is due; NULL: none is scheduled.
-- Locks: none. Called by dispatch when there is nothing to do.
SELECT extract(epoch FROM min(next.send_after) - clock_timestamp())::double precision
FROM (VALUES ('urgent'), ('normal'), ('bulk')) AS l(lane)
CROSS JOIN LATERAL (
    SELECT o.send_after
    FROM sms.outbox AS o
    WHERE o.queued
        AND o.lane = l.lane
        AND o.send_after > now()
        -- Never; and it cannot be subtracted before PostgreSQL 17.
        AND o.send_after < 'infinity'
    ORDER BY o.send_after, o.id
    LIMIT 1
) AS next
