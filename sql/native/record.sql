-- outboxd: record
-- Writes what became of a batch of messages, and deletes the waves of which every result is now known.
-- Each array has one entry a message, in id order:
-- $1 ids bigint[], $2 attempts that the row must show integer[], $3 attempts that it then has integer[],
-- $4 row version that it must have or NULL xid[], $5 status text[], $6 held boolean[], $7 gateway text[],
-- $8 gateway_ref text[], $9 gateway_message_id text[], $10 error_code text[], $11 error text[],
-- $12 encoding text[], $13 segments smallint[]
-- $14 $15 finished waves: epochs bigint[], seqs bigint[]
-- $16 created_at timestamptz[]: an id may have been given to another message since
-- $17 timeline integer or NULL: of the server that this is meant for; any other refuses it (expect_timeline)
-- Columns: id of each row that was written. One that is missing is read again and accounted for by the caller.
-- Locks: the rows, in id order.
--
-- A result is a fact and is taken at any epoch, provided that it fits its attempt. A row fits when it still waits for
-- this attempt's result; or when it carries this attempt's reference, because a takeover called it unknown, or because
-- a receipt was quicker than we are (then its state stays and only the rest is filled in).
WITH result AS (
    SELECT *
    FROM unnest(
        $1::bigint[], $2::integer[], $3::integer[], $4::xid[], $5::text[], $6::boolean[], $7::text[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::smallint[], $16::timestamptz[]
    ) AS r(
        id, expected, attempts, version, status, held, gateway,
        gateway_ref, gateway_message_id, error_code, error, encoding, segments, created_at
    )
), finished AS (
    DELETE FROM outboxd.wave AS w
    USING unnest($14::bigint[], $15::bigint[]) AS f(epoch, seq)
    WHERE w.epoch = f.epoch
        AND w.seq = f.seq
)
UPDATE sms.outbox AS o
SET status = CASE WHEN o.status IN ('delivered', 'undelivered') THEN o.status ELSE r.status END,
    held = r.held AND o.status = 'queued',
    attempts = greatest(o.attempts, r.attempts),
    error_code = CASE WHEN o.status IN ('delivered', 'undelivered') THEN o.error_code ELSE r.error_code END,
    error = CASE WHEN o.status IN ('delivered', 'undelivered') THEN o.error ELSE r.error END,
    sent_via = coalesce(r.gateway, o.sent_via),
    gateway_ref = CASE WHEN r.status = 'queued' THEN o.gateway_ref ELSE coalesce(r.gateway_ref, o.gateway_ref) END,
    gateway_message_id = coalesce(r.gateway_message_id, o.gateway_message_id),
    encoding = coalesce(r.encoding, o.encoding),
    segments = coalesce(r.segments, o.segments),
    sent_at = CASE
        WHEN r.status IN ('accepted', 'unknown') THEN now()
        ELSE o.sent_at
    END,
    final_at = CASE
        WHEN o.status IN ('delivered', 'undelivered') THEN o.final_at
        WHEN r.status IN ('failed', 'expired') THEN now()
    END
FROM result AS r
WHERE o.id = r.id
    AND o.created_at = r.created_at
    AND outboxd.expect_timeline($17)
    AND (
        (
            o.attempts = r.expected
            AND (r.version IS NULL OR o.xmin = r.version)
            AND (outboxd.may_become(o.status, r.status) OR (o.status = 'queued' AND r.status = 'queued'))
        )
        OR (
            o.gateway_ref = r.gateway_ref
            AND (
                (o.status IN ('delivered', 'undelivered') AND o.sent_at IS NULL)
                OR (o.status = 'unknown' AND outboxd.may_become(o.status, r.status))
            )
        )
    )
RETURNING o.id
