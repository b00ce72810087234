-- outboxd: wave
-- Durable intent: writes down the attempts that are about to be made, of those rows that are still as they were read.
-- $1 epoch bigint, $2 seq bigint, $3 gateway text, $4 nonce text,
-- $5 ids bigint[], $6 attempt numbers integer[], $7 row versions xid[]
-- Columns: fenced boolean (this epoch still leads and is not held), confirmed bigint[] (may be sent), created_at of
-- each of them timestamptz[].
-- Locks: the leader row FOR SHARE. A plain comparison of the epoch would let an old leader's wave slip in beside its
-- successor: the lock makes the successor's takeover wait for this commit, and then see this wave.
-- Called by dispatch.
WITH fence AS MATERIALIZED (
    SELECT l.epoch
    FROM outboxd.leader AS l
    WHERE l.epoch = $1
        AND NOT l.held
    FOR SHARE
), confirmed AS MATERIALIZED (
    SELECT w.id, w.attempt, o.created_at
    FROM unnest($5::bigint[], $6::integer[], $7::xid[]) AS w(id, attempt, version)
    JOIN sms.outbox AS o ON o.id = w.id
    WHERE EXISTS (SELECT FROM fence)
        AND o.queued
        AND o.xmin = w.version
        AND o.attempts = w.attempt - 1
        AND o.send_after <= now()
        AND (o.expires_at IS NULL OR o.expires_at > now())
        -- An attempt that was made while this row was out of sight, see settle_noted.
        AND NOT EXISTS (
            SELECT FROM outboxd.attempt AS a
            WHERE a.message_id = o.id
                AND a.row_made = o.created_at
                AND a.attempt >= w.attempt
                AND a.verdict IN ('accepted', 'unknown')
        )
), wave AS (
    INSERT INTO outboxd.wave (epoch, seq, gateway, nonce, ids, attempts, rows_made)
    SELECT $1, $2, $3, $4, array_agg(c.id), array_agg(c.attempt), array_agg(c.created_at)
    FROM confirmed AS c
    HAVING count(*) > 0
)
SELECT
    EXISTS (SELECT FROM fence) AS fenced,
    coalesce(array_agg(c.id), '{}') AS confirmed,
    coalesce(array_agg(c.created_at), '{}') AS rows_made
FROM confirmed AS c
