-- outboxd: wave
-- Durable intent: writes down the attempts that are about to be made, of those rows that are still as they were read.
-- $1 epoch bigint, $2 seq bigint, $3 gateway text, $4 nonce text,
-- $5 ids bigint[], $6 attempt numbers integer[], $7 row versions xid[],
-- $8 numbers as international digits text[], NULL: sent to people who opted out as well, $9 created_at timestamptz[]
-- Columns: fenced boolean (this epoch still leads, here, and is not held), confirmed bigint[] (may be sent), created_at of
-- each of them timestamptz[], opted_out bigint[] (unchanged as well, and their recipients want no messages).
-- Locks: the leader row FOR SHARE. A plain comparison of the epoch would let an old leader's wave slip in beside its
-- successor: the lock makes the successor's takeover wait for this commit, and then see this wave.
-- The timeline: a leader whose statements have come to a promoted replica before it knows of the promotion would send
-- again what the replica has not heard of. Versions and ids can be given twice then; a time of creation is not.
-- Called by dispatch.
WITH fence AS MATERIALIZED (
    SELECT l.uncertain_id, l.uncertain_before, l.uncertain_due
    FROM outboxd.leader AS l
    WHERE l.epoch = $1
        AND NOT l.held
        AND l.timeline = (SELECT outboxd.timeline())
    -- Not waiting: rows would be looked at as they were before the wait, and a cancel since then would be missed.
    FOR SHARE NOWAIT
), unwanted AS MATERIALIZED (
    -- Opt-outs of the whole wave at once: message by message, this and the next question were a third of what a wave cost
    -- where somebody had opted out.
    SELECT x.msisdn, x.app
    FROM sms.opt_out AS x
    WHERE x.msisdn = ANY ($8::text[])
        AND x.ended_at IS NULL
), noted AS MATERIALIZED (
    -- Attempts whose results found no row, or a row that did not wait for them, see settle_noted.
    SELECT a.message_id, a.row_made, a.attempt, a.verdict, a.at
    FROM outboxd.attempt AS a
    WHERE a.message_id = ANY ($5::bigint[])
        AND a.verdict IN ('accepted', 'unknown')
), unchanged AS MATERIALIZED (
    SELECT
        w.id,
        w.attempt,
        o.created_at,
        w.msisdn IS NOT NULL
            AND (
                (w.msisdn, '') IN (SELECT x.msisdn, x.app FROM unwanted AS x)
                OR (w.msisdn, o.app) IN (SELECT x.msisdn, x.app FROM unwanted AS x)
            ) AS opted_out
    FROM fence AS f
    CROSS JOIN (
        -- In the SELECT list, as in record.
        SELECT
            unnest($5::bigint[]) AS id,
            unnest($6::integer[]) AS attempt,
            unnest($7::xid[]) AS version,
            unnest($8::text[]) AS msisdn,
            unnest($9::timestamptz[]) AS row_made
    ) AS w
    JOIN sms.outbox AS o ON o.id = w.id
    -- Not o.queued: where VACUUM last saw an empty queue, the planner would walk through the whole index of waiting rows
    -- for each wave, instead of finding these by their key.
    WHERE o.status = 'queued'
        AND NOT o.held
        AND o.xmin = w.version
        AND o.created_at = w.row_made
        AND o.attempts = w.attempt - 1
        AND o.send_after <= now()
        AND (o.expires_at IS NULL OR o.expires_at > now())
        AND (o.id <= f.uncertain_id AND o.created_at <= f.uncertain_before AND o.send_after <= f.uncertain_due) IS NOT TRUE
        AND NOT EXISTS (
            SELECT FROM noted AS a
            WHERE a.message_id = o.id
                AND a.row_made = o.created_at
                -- As in settle_noted. Whoever asks for another attempt makes the row due then, and the note is older.
                AND (
                    a.attempt > o.attempts
                    OR (a.at > o.send_after AND (a.verdict = 'accepted' OR a.attempt = o.attempts))
                )
        )
), wave AS (
    INSERT INTO outboxd.wave (epoch, seq, gateway, nonce, ids, attempts, rows_made)
    SELECT $1, $2, $3, $4, array_agg(u.id), array_agg(u.attempt), array_agg(u.created_at)
    FROM unchanged AS u
    WHERE NOT u.opted_out
    HAVING count(*) > 0
)
SELECT
    EXISTS (SELECT FROM fence) AS fenced,
    coalesce(array_agg(u.id) FILTER (WHERE NOT u.opted_out), '{}') AS confirmed,
    coalesce(array_agg(u.created_at) FILTER (WHERE NOT u.opted_out), '{}') AS rows_made,
    coalesce(array_agg(u.id) FILTER (WHERE u.opted_out), '{}') AS opted_out
FROM unchanged AS u
