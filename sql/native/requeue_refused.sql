-- outboxd: requeue_refused
-- Gives back the messages that a gateway refused one after another before it was stopped: the fault was not theirs.
-- $1 ids bigint[], $2 gateway_refs text[]
-- Columns: id. Locks: the rows. Called by dispatch when it stops a gateway.
UPDATE sms.outbox AS o
SET status = 'queued',
    final_at = NULL,
    error_code = 'gateway_stopped',
    error = 'the gateway refused everything and was stopped; the message waits'
FROM unnest($1::bigint[], $2::text[]) AS r(id, gateway_ref)
WHERE o.id = r.id
    AND o.status = 'failed'
    AND o.gateway_ref = r.gateway_ref
RETURNING o.id
