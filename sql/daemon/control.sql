-- outboxd: control
-- What a person may have asked for since we last looked.
-- $1 epoch bigint, $2 timeline integer (expect_timeline: an old primary that came back knows nothing of our epoch)
-- Columns: leads boolean (the epoch is still ours), held, held_reason, resumed text[] (gateways to let try again),
-- uncertain_before, uncertain_due.
WITH resumed AS (
    UPDATE outboxd.gateway AS g
    SET resume_requested_at = NULL
    WHERE g.resume_requested_at IS NOT NULL
        -- Whoever leads no more must not take a request away from its successor.
        AND EXISTS (SELECT FROM outboxd.leader AS own WHERE own.epoch = $1)
    RETURNING g.name
)
SELECT
    l.epoch = $1,
    l.held,
    l.held_reason,
    coalesce((SELECT array_agg(r.name) FROM resumed AS r), '{}'),
    l.uncertain_before,
    l.uncertain_due
FROM outboxd.leader AS l
WHERE outboxd.expect_timeline($2)
