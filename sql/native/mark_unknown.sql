-- outboxd: mark_unknown
-- Attempts that stand in a wave of an earlier leader and have no recorded result: they may have been sent.
-- $1 ids bigint[], $2 attempts integer[], $3 gateways text[], $4 gateway_refs text[], $5 error text
-- Columns: id. Locks: the rows. Called at takeover, in the transaction that deletes those waves.
UPDATE sms.outbox AS o
SET status = 'unknown',
    held = false,
    attempts = w.attempt,
    sent_via = w.gateway,
    gateway_ref = w.gateway_ref,
    sent_at = now(),
    final_at = NULL,
    error_code = 'outcome_unknown',
    error = $5
FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::text[]) AS w(id, attempt, gateway, gateway_ref)
WHERE o.id = w.id
    AND o.attempts < w.attempt
    AND o.status IN ('queued', 'cancelled')
RETURNING o.id
