-- outboxd: reapply
-- After a failover that lost commits: writes again the results that a daemon remembers, and marks what it has under
-- way, so that what was sent is not sent again. Facts: a row gives way to an attempt that it has not heard of. That somebody
-- queued it again for that attempt may have been lost as well.
-- $1 ids bigint[], $2 created_at timestamptz[] (an id may have been given to another message since), $3 attempts
-- integer[], $4 status text[], $5 gateways text[], $6 gateway_refs text[], $7 timeline integer (expect_timeline)
-- Columns: id of each row that was written. Locks: the rows, in id order. Called after a failover, by every daemon that
-- lived through it.
UPDATE sms.outbox AS o
SET status = r.status,
    -- A daemon that led in between may have held it as too old; it was sent all the same.
    held = false,
    attempts = r.attempts,
    sent_via = r.gateway,
    gateway_ref = r.gateway_ref,
    sent_at = now(),
    final_at = CASE WHEN r.status = 'failed' THEN now() END,
    error_code = CASE WHEN r.status <> 'accepted' THEN 'reapplied' END,
    error = CASE r.status
        WHEN 'failed' THEN 'its result was lost in a database failover and written again'
        WHEN 'unknown' THEN 'it was under way when the database failed over; if its answer came, it stands here soon'
    END
FROM unnest($1::bigint[], $2::timestamptz[], $3::integer[], $4::text[], $5::text[], $6::text[])
    AS r(id, created_at, attempts, status, gateway, gateway_ref)
WHERE o.id = r.id
    AND o.created_at = r.created_at
    AND (SELECT outboxd.expect_timeline($7))
    AND (
        (
            o.attempts < r.attempts
            AND (outboxd.may_become(o.status, r.status) OR outboxd.may_become(o.status, 'queued'))
        )
        OR (o.status = 'unknown' AND o.gateway_ref = r.gateway_ref AND r.status <> 'unknown')
    )
RETURNING o.id
