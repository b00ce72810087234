-- outboxd: reapply
-- After a failover that lost commits: writes again the results that the daemon remembers, so that what was sent is not
-- sent again. A row must be the very row: an id may have been given to another message since.
-- $1 ids bigint[], $2 send_after timestamptz[], $3 attempts integer[], $4 status text[], $5 gateways text[],
-- $6 gateway_refs text[]
-- Columns: id of each row that was written. Locks: the rows, in id order. Called at takeover.
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
    error = CASE WHEN r.status <> 'accepted' THEN 'its result was lost in a database failover and written again' END
FROM unnest($1::bigint[], $2::timestamptz[], $3::integer[], $4::text[], $5::text[], $6::text[])
    AS r(id, send_after, attempts, status, gateway, gateway_ref)
WHERE o.id = r.id
    AND o.send_after = r.send_after
    AND o.attempts < r.attempts
    AND o.status = 'queued'
RETURNING o.id
