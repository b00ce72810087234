-- outboxd: receipts
-- Moves messages to the state that their delivery receipt says. At most one entry a message.
-- $1 ids bigint[], $2 attempts integer[], $3 nonces text[], $4 gateway_refs text[], $5 status text[],
-- $6 why it was not delivered text[], or NULL, $7 timeline integer or NULL (expect_timeline)
-- Columns: id of each row that changed.
-- Locks: the rows, in id order.
--
-- A receipt fits when the row carries its reference; when the answer of that very attempt is not recorded yet (it
-- stands in an open wave); or when the attempt was given up and the message sent again. Anything else (repeated,
-- foreign, of a message that has gone, of one that had this id before) changes nothing. That an epoch is the present one
-- would be no proof of the message: after a failover the leader row is the old one for a while, and ids are given again.
-- That an earlier attempt was delivered ends the message. That it was not says nothing about the attempt that followed:
-- "undelivered" counts only for the attempt whose result the row shows, or waits for.
UPDATE sms.outbox AS o
SET status = r.status,
    held = false,
    attempts = greatest(o.attempts, r.attempt),
    gateway_ref = r.gateway_ref,
    -- The answer is still to come, and fills in the rest when it finds none here; this one is of an earlier attempt.
    sent_at = CASE WHEN o.attempts >= r.attempt THEN o.sent_at END,
    final_at = now(),
    error_code = CASE WHEN r.status = 'undelivered' THEN 'undelivered' END,
    error = CASE
        WHEN r.status = 'undelivered' THEN coalesce(r.note, 'the network could not deliver it to the handset')
    END
FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[])
    AS r(id, attempt, nonce, gateway_ref, status, note)
WHERE o.id = r.id
    AND (SELECT outboxd.expect_timeline($7))
    AND outboxd.may_become(o.status, r.status)
    AND (
        (o.gateway_ref = r.gateway_ref AND (r.status = 'delivered' OR o.status NOT IN ('queued', 'cancelled')))
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
            r.status = 'delivered'
            AND EXISTS (
                SELECT FROM outboxd.attempt AS a
                WHERE a.message_id = o.id
                    AND a.row_made = o.created_at
                    AND a.gateway_ref = r.gateway_ref
            )
        )
    )
RETURNING o.id
