-- outboxd: wave
-- Durable intent: writes down the attempts that are about to be made, of those rows that are still as they were read.
-- $1 epoch bigint, $2 seq bigint, $3 gateway text, $4 nonce text,
-- $5 ids bigint[], $6 attempt numbers integer[], $7 row versions xid[], $8 created_at timestamptz[]
-- Columns: fenced boolean (this epoch still leads, here, and is not held), confirmed bigint[] (may be sent).
-- Locks: the leader row FOR SHARE. A plain comparison of the epoch would let an old leader's wave slip in beside its
-- successor: the lock makes the successor's takeover wait for this commit, and then see this wave.
-- The timeline: a leader whose statements have come to a promoted replica before it knows of the promotion would send
-- again what the replica has not heard of. Versions and ids can be given twice then; a time of creation is not.
-- Called by dispatch.
WITH fence AS MATERIALIZED (
    SELECT l.uncertain_before, l.uncertain_due
    FROM outboxd.leader AS l
    WHERE l.epoch = $1
        AND NOT l.held
        AND l.timeline = (SELECT outboxd.timeline())
    FOR SHARE
), confirmed AS MATERIALIZED (
    SELECT w.id, w.attempt
    FROM fence AS f
    CROSS JOIN unnest($5::bigint[], $6::integer[], $7::xid[], $8::timestamptz[]) AS w(id, attempt, version, created_at)
    JOIN sms.outbox AS o ON o.id = w.id
    WHERE o.queued
        AND o.xmin = w.version
        AND o.created_at = w.created_at
        AND o.attempts = w.attempt - 1
        AND o.send_after <= now()
        AND (o.expires_at IS NULL OR o.expires_at > now())
        AND (o.created_at <= f.uncertain_before AND o.send_after <= f.uncertain_due) IS NOT TRUE
), wave AS (
    INSERT INTO outboxd.wave (epoch, seq, gateway, nonce, ids, attempts)
    SELECT $1, $2, $3, $4, array_agg(c.id), array_agg(c.attempt)
    FROM confirmed AS c
    HAVING count(*) > 0
)
SELECT
    EXISTS (SELECT FROM fence) AS fenced,
    coalesce((SELECT array_agg(c.id) FROM confirmed AS c), '{}') AS confirmed
