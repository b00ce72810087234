-- outboxd: record
-- Writes what became of a batch of messages, and deletes the waves of which every result is now known.
-- Each array has one entry a message, in id order. Those of what may be NULL may be empty: it is NULL for all then.
-- $1 ids bigint[], $2 created_at that the row must have or NULL timestamptz[], $3 attempts that it shows at most while it
-- waits (-1: only a row with this reference is meant) integer[], $4 attempts that it then has integer[], $5 row version
-- that it must have or NULL xid[], $6 status text[], $7 held or NULL boolean[], $8 gateway text[], $9 gateway_ref text[],
-- $10 gateway_message_id text[], $11 error_code text[], $12 error text[], $13 encoding text[], $14 segments smallint[]
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
    -- In the SELECT list, not in FROM, where the server would put all of it aside before the first row is written.
    SELECT
        unnest($1::bigint[]) AS id,
        unnest($2::timestamptz[]) AS row_made,
        unnest($3::integer[]) AS expected,
        unnest($4::integer[]) AS attempts,
        unnest($5::xid[]) AS version,
        unnest($6::text[]) AS status,
        unnest($7::boolean[]) AS held,
        unnest($8::text[]) AS gateway,
        unnest($9::text[]) AS gateway_ref,
        unnest($10::text[]) AS gateway_message_id,
        unnest($11::text[]) AS error_code,
        unnest($12::text[]) AS error,
        unnest($13::text[]) AS encoding,
        unnest($14::smallint[]) AS segments
), finished AS (
    DELETE FROM outboxd.wave AS w
    USING unnest($15::bigint[], $16::bigint[]) AS f(epoch, seq)
    WHERE w.epoch = f.epoch
        AND w.seq = f.seq
)
UPDATE sms.outbox AS o
SET status = CASE WHEN outboxd.was_told(o.status, o.gateway_ref, r.gateway_ref) THEN o.status ELSE r.status END,
    held = coalesce(r.held, false) AND o.status = 'queued',
    -- As outboxd.keep_sound() would have it: it puts right what differs, and is quicker where nothing does.
    queued = r.status = 'queued' AND r.held IS NOT TRUE,
    unresolved = r.status = 'unknown',
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
    -- Nearly all rows still wait: what is asked of the others is not asked of these.
    AND CASE
        WHEN o.status IN ('queued', 'cancelled') THEN
            o.attempts <= r.expected
            AND (r.version IS NULL OR o.xmin = r.version)
            AND (outboxd.may_become(o.status, r.status) OR (o.status = 'queued' AND r.status = 'queued'))
        ELSE
            o.gateway_ref = r.gateway_ref
            AND (
                (o.status IN ('delivered', 'undelivered', 'accepted', 'failed') AND o.sent_at IS NULL)
                OR (o.status = 'unknown' AND outboxd.may_become(o.status, r.status))
            )
    END
RETURNING o.id
