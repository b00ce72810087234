-- outboxd: processed
-- What became of requests after the gateway had answered them: its processing results. At most one entry a message.
-- $1 ids bigint[], $2 attempts integer[], $3 nonces text[], $4 gateway_refs text[], $5 status text[] (accepted, failed),
-- $6 error codes text[], $7 errors text[], $8 timeline integer or NULL (expect_timeline)
-- Columns: id of each row that changed.
-- Locks: the rows, in id order. Called by incoming, on every daemon.
--
-- A result is about the attempt whose reference the row shows. It may also be quicker than the recording of the answer,
-- which then finds no sent_at and fills in the rest. That an attempt was accepted which had been given up as unknown keeps the message from being sent again, as
-- long as it is not under way again.
UPDATE sms.outbox AS o
SET status = r.status,
    held = false,
    attempts = greatest(o.attempts, r.attempt),
    gateway_ref = r.gateway_ref,
    sent_at = CASE WHEN o.attempts >= r.attempt THEN o.sent_at END,
    final_at = CASE WHEN r.status = 'failed' THEN now() END,
    error_code = r.error_code,
    error = r.error
FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
    AS r(id, attempt, nonce, gateway_ref, status, error_code, error)
WHERE o.id = r.id
    AND (SELECT outboxd.expect_timeline($8))
    AND outboxd.may_become(o.status, r.status)
    -- CASE: from the bare alternatives the planner would conclude which states a row may have, expect none of them, and
    -- read the whole table in search of one.
    AND CASE WHEN (
        (o.gateway_ref = r.gateway_ref AND o.status IN ('unknown', 'accepted'))
        OR (
            o.status IN ('queued', 'cancelled')
            AND o.attempts < r.attempt
            AND EXISTS (
                SELECT FROM outboxd.wave AS w
                CROSS JOIN LATERAL unnest(w.ids, w.attempts, w.rows_made) AS a(id, attempt, row_made)
                WHERE w.nonce = r.nonce
                    AND a.id = o.id
                    AND a.attempt = r.attempt
                    AND a.row_made = o.created_at
            )
        )
        OR (
            r.status = 'accepted'
            AND o.status = 'queued'
            AND o.gateway_ref = r.gateway_ref
            AND EXISTS (
                SELECT FROM outboxd.attempt AS a
                WHERE a.message_id = o.id AND a.row_made = o.created_at
                    AND a.gateway_ref = r.gateway_ref AND a.verdict = 'unknown'
                    -- Given up in the transaction that queued it: nobody has asked for it anew since.
                    AND a.at = o.send_after
            )
            AND NOT EXISTS (
                SELECT FROM outboxd.wave AS w
                WHERE o.id = ANY (w.ids) AND w.attempts[array_position(w.ids, o.id)] > r.attempt
            )
        )
    ) THEN true END
RETURNING o.id
