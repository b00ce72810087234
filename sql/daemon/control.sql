-- outboxd: control
-- What a person, or a daemon that took callbacks, may have asked for since we last looked.
-- $1 epoch bigint, $2 timeline integer (expect_timeline: an old primary that came back knows nothing of our epoch)
-- Columns: leads boolean (the epoch is still ours), held, held_reason, resumed text[] (gateways to let try again),
-- stopped text[] (gateways to stop), reasons text[] (why, for each of them), uncertain_id, uncertain_before, uncertain_due,
-- the database's clock and the latest sign of life of any daemon by that clock (both in microseconds since 1970 bigint; NULL:
-- no daemon yet), not_together text[] (gateways with an alarm that says so: they get one message a request).
-- Locks: the rows of those gateways.
WITH asked AS MATERIALIZED (
    SELECT g.name, g.resume_requested_at IS NOT NULL AS resumed, g.stop_requested
    FROM outboxd.gateway AS g
    WHERE (g.resume_requested_at IS NOT NULL OR g.stop_requested IS NOT NULL)
        -- Whoever leads no more must not take a request away from its successor.
        AND EXISTS (SELECT FROM outboxd.leader AS own WHERE own.epoch = $1)
    ORDER BY g.name
    FOR UPDATE
), heard AS (
    UPDATE outboxd.gateway AS g
    SET resume_requested_at = NULL,
        stop_requested = NULL
    FROM asked AS a
    WHERE g.name = a.name
)
SELECT
    l.epoch = $1,
    l.held,
    l.held_reason,
    coalesce((SELECT array_agg(a.name ORDER BY a.name) FROM asked AS a WHERE a.resumed), '{}'),
    coalesce((SELECT array_agg(a.name ORDER BY a.name) FROM asked AS a WHERE a.stop_requested IS NOT NULL), '{}'),
    coalesce((SELECT array_agg(a.stop_requested ORDER BY a.name) FROM asked AS a WHERE a.stop_requested IS NOT NULL), '{}'),
    l.uncertain_id,
    l.uncertain_before,
    l.uncertain_due,
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    (SELECT (extract(epoch FROM max(d.seen_at)) * 1000000)::bigint FROM outboxd.daemon AS d),
    coalesce(
        (
            SELECT array_agg(m.subject ORDER BY m.subject) FROM outboxd.alarm AS m
            WHERE m.code = 'skipped_unnamed' AND m.cleared_at IS NULL
        ),
        '{}'
    )
FROM outboxd.leader AS l
WHERE outboxd.expect_timeline($2)
