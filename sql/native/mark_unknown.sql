-- outboxd: mark_unknown
-- Attempts that stand in a wave of an earlier leader and have no recorded result: they may have been sent.
-- $1 ids bigint[], $2 created_at of the rows timestamptz[], $3 attempts integer[], $4 gateways text[],
-- $5 gateway_refs text[], $6 error text
-- Columns: id of each row that was marked. Locks: the rows. Called at takeover, in the transaction that deletes those waves.
-- What was sent for a row that is gone is noted in outboxd.attempt.
WITH open_attempt AS MATERIALIZED (
    SELECT *
    FROM unnest($1::bigint[], $2::timestamptz[], $3::integer[], $4::text[], $5::text[])
        AS w(id, row_made, attempt, gateway, gateway_ref)
), noted AS (
    INSERT INTO outboxd.attempt (message_id, row_made, attempt, gateway, gateway_ref, verdict, note)
    SELECT w.id, w.row_made, w.attempt, w.gateway, w.gateway_ref, 'unknown', format('its row is gone; %s', $6::text)
    FROM open_attempt AS w
    WHERE NOT EXISTS (SELECT FROM sms.outbox AS o WHERE o.id = w.id AND o.created_at = w.row_made)
        -- The last leader knew its result.
        AND NOT EXISTS (
            SELECT FROM outboxd.attempt AS a WHERE a.message_id = w.id AND a.gateway_ref = w.gateway_ref
        )
), marked AS (
    UPDATE sms.outbox AS o
    SET status = 'unknown',
        held = false,
        attempts = w.attempt,
        sent_via = w.gateway,
        gateway_ref = w.gateway_ref,
        sent_at = now(),
        final_at = NULL,
        error_code = 'outcome_unknown',
        error = $6
    FROM open_attempt AS w
    WHERE o.id = w.id
        AND o.created_at = w.row_made
        AND o.attempts < w.attempt
        AND o.status IN ('queued', 'cancelled')
    RETURNING o.id
)
SELECT m.id
FROM marked AS m
