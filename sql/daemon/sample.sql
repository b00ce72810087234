-- outboxd: sample
-- What waits, for the admin pages: cheap however long the queue is, since no count goes on past $1.
-- $1 most bigint
-- Columns: lane, due, seconds since the first of them was due (NULL: none); then, the same in each row: held, unknown.
-- Locks: none.
SELECT
    l.lane,
    (
        SELECT count(*)
        FROM (
            SELECT
            FROM sms.outbox AS o
            WHERE o.queued
                AND o.lane = l.lane
                AND o.send_after <= now()
            LIMIT $1
        ) AS due
    ),
    -- A row whose time lies before it was made (an application may write '-infinity') waits since it was made.
    (
        SELECT extract(epoch FROM now() - greatest(o.send_after, o.created_at))::double precision
        FROM sms.outbox AS o
        WHERE o.queued
            AND o.lane = l.lane
            AND o.send_after <= now()
        ORDER BY o.send_after, o.id
        LIMIT 1
    ),
    (SELECT count(*) FROM (SELECT FROM sms.outbox AS o WHERE o.held LIMIT $1) AS held),
    (SELECT count(*) FROM (SELECT FROM sms.outbox AS o WHERE o.unresolved LIMIT $1) AS unknown)
FROM (VALUES ('urgent'), ('normal'), ('bulk')) AS l(lane)
