-- outboxd: no_credit
-- Messages that the gateway accepted and then refused because the account has no credits: they wait, and the leading
-- daemon is told to stop their gateway. At most one entry a message.
-- $1 ids bigint[], $2 attempts integer[], $3 nonces text[], $4 gateway_refs text[], $5 errors text[],
-- $6 timeline integer or NULL (expect_timeline)
-- Columns: how many rows changed bigint.
-- Locks: the rows, in id order; those of the gateways. Called by incoming, on every daemon.
--
-- A result that is quicker than the recording of its answer takes the attempt: the answer then finds it taken. The row
-- is due a moment later, so that it does not go out again before its gateway has stopped.
WITH refused AS (
    UPDATE sms.outbox AS o
    SET status = 'queued',
        attempts = greatest(o.attempts, r.attempt),
        gateway_ref = r.gateway_ref,
        send_after = greatest(o.send_after, now() + interval '1 second'),
        error_code = 'gateway_no_credit',
        error = r.error
    FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::text[], $5::text[])
        AS r(id, attempt, nonce, gateway_ref, error)
    WHERE o.id = r.id
        AND (SELECT outboxd.expect_timeline($6))
        -- CASE: see processed.
        AND CASE WHEN (
            (o.gateway_ref = r.gateway_ref AND o.status IN ('unknown', 'accepted'))
            OR (
                o.status = 'queued'
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
        ) THEN true END
    RETURNING o.id, o.sent_via, r.nonce, r.error
), of_gateway AS (
    SELECT
        coalesce(
            (SELECT w.gateway FROM outboxd.wave AS w WHERE w.nonce = r.nonce AND r.id = ANY (w.ids) LIMIT 1),
            r.sent_via
        ) AS name,
        max(r.error) AS error
    FROM refused AS r
    GROUP BY 1
), stopped AS (
    UPDATE outboxd.gateway AS g
    SET stop_requested = f.error
    FROM of_gateway AS f
    WHERE g.name = f.name
)
SELECT count(*), max(CASE WHEN told THEN pg_notify('outboxd', 'control')::text END)
FROM (SELECT row_number() OVER () = 1 AS told FROM refused) AS r
