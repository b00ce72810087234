-- outboxd: read_states
-- What rows look like whose result did not fit.
-- $1 ids bigint[]
-- Columns: id, status, attempts, gateway_ref, created_at, xmin. Locks: none. Called by record.
SELECT o.id, o.status, o.attempts, o.gateway_ref, o.created_at, o.xmin
FROM sms.outbox AS o
WHERE o.id = ANY ($1)
ORDER BY o.id
