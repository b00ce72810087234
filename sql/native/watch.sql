-- outboxd: watch
-- What became of one message, for people.
-- $1 id bigint
-- Columns: status, error_code, error, attempts, segments, encoding, sent_via, held, gateway_ref.
SELECT o.status, o.error_code, o.error, o.attempts, o.segments, o.encoding, o.sent_via, o.held, o.gateway_ref
FROM sms.outbox AS o
WHERE o.id = $1
