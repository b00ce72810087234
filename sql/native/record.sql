-- outboxd: record
-- Writes what became of a batch of messages, and deletes the waves of which every result is now known.
-- Each array has one entry a message, in id order:
-- $1 ids bigint[], $2 created_at that the row must have or NULL timestamptz[], $3 attempts that it shows at most
-- integer[], $4 attempts that it then has integer[], $5 row version that it must have or NULL xid[], $6 status text[],
-- $7 held boolean[], $8 gateway text[], $9 gateway_ref text[], $10 gateway_message_id text[], $11 error_code text[],
-- $12 error text[], $13 encoding text[], $14 segments smallint[]
-- $15 $16 finished waves: epochs bigint[], seqs bigint[]
-- $17 timeline integer or NULL: of the server that this is meant for; any other refuses it (expect_timeline)
-- Columns: id of each row that was written. One that is missing is read again and accounted for by the caller.
-- Locks: the rows, in id order.
--
-- A result is a fact and is taken at any epoch, provided that it fits its attempt. A row fits when it is the very row
-- (an id may have been given to another since) and still waits for this attempt's result: then it shows fewer attempts,
-- whatever a person has set them back to; or when it carries this attempt's reference, because a takeover called it
-- unknown, or because a receipt or a processing result was quicker than we are (then its state stays and only the rest
-- is filled in).
WITH result AS (
    SELECT *
    FROM unnest(
        $1::bigint[], $2::timestamptz[], $3::integer[], $4::integer[], $5::xid[], $6::text[], $7::boolean[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::smallint[]
    ) AS r(
        id, row_made, expected, attempts, version, status, held, gateway,
        gateway_ref, gateway_message_id, error_code, error, encoding, segments
    )
), finished AS (
    DELETE FROM outboxd.wave AS w
    USING unnest($15::bigint[], $16::bigint[]) AS f(epoch, seq)
    WHERE w.epoch = f.epoch
        AND w.seq = f.seq
)
UPDATE sms.outbox AS o
SET status = CASE WHEN outboxd.was_told(o.status, o.gateway_ref, r.gateway_ref) THEN o.status ELSE r.status END,
    held = r.held AND o.status = 'queued',
    attempts = greatest(o.attempts, r.attempts),
    error_code = CASE WHEN outboxd.was_told(o.status, o.gateway_ref, r.gateway_ref) THEN o.error_code ELSE r.error_code END,
    error = CASE WHEN outboxd.was_told(o.status, o.gateway_ref, r.gateway_ref) THEN o.error ELSE r.error END,
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
        WHEN outboxd.was_told(o.status, o.gateway_ref, r.gateway_ref) THEN o.final_at
        WHEN r.status IN ('failed', 'expired') THEN now()
    END
FROM result AS r
WHERE o.id = r.id
    AND (r.row_made IS NULL OR o.created_at = r.row_made)
    AND (SELECT outboxd.expect_timeline($17))
    AND (
        (
            o.status IN ('queued', 'cancelled')
            AND o.attempts <= r.expected
            AND (r.version IS NULL OR o.xmin = r.version)
            AND (outboxd.may_become(o.status, r.status) OR (o.status = 'queued' AND r.status = 'queued'))
        )
        OR (
            o.gateway_ref = r.gateway_ref
            AND (
                (o.status IN ('delivered', 'undelivered', 'accepted', 'failed') AND o.sent_at IS NULL)
                OR (o.status = 'unknown' AND outboxd.may_become(o.status, r.status))
            )
        )
    )
RETURNING o.id
