-- outboxd: uncertain
-- Messages that may have been sent before a failover: how many are set aside (100,000 at most are counted), and whether
-- anything of the kind is left, set aside or still to be.
-- Columns: bigint, boolean. Locks: none. Called by the leader while something is uncertain.
WITH set_aside AS MATERIALIZED (
    SELECT count(*) AS messages
    FROM (
        SELECT
        FROM sms.outbox AS o
        WHERE o.held
            AND o.error_code = 'failover_uncertain'
        LIMIT 100000
    ) AS o
)
SELECT
    s.messages,
    s.messages > 0
        OR l.uncertain_due = 'infinity'
        OR EXISTS (
            SELECT
            FROM unnest(ARRAY['urgent', 'normal', 'bulk']) AS n(lane)
            CROSS JOIN LATERAL (
                SELECT
                FROM sms.outbox AS o
                WHERE o.queued
                    AND o.status = 'queued'
                    AND o.lane = n.lane
                    AND o.send_after <= l.uncertain_due
                    AND o.created_at <= l.uncertain_before
                    -- Plus 0: or the planner may walk along the ids, through every row there is.
                    AND o.id + 0 <= l.uncertain_id
                LIMIT 1
            ) AS o
        )
FROM set_aside AS s
CROSS JOIN outboxd.leader AS l
