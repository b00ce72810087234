-- outboxd: discover
-- Due rows of one lane in queue order, after one position and up to another.
-- $1 lane text, $2 $3 read after this (send_after, id), $4 $5 read up to this (send_after, id),
-- $6 gateways text[] whose own rows are left out, $7 limit bigint
-- Columns: as OutboxRow in src/message.rs, with whether expires_at has passed (NULL: it has none), the database's
-- clock, and created_at.
-- Over-long texts come cut, and are refused by their length.
-- Locks: none. Called by dispatch.
SELECT
    o.id,
    o.xmin,
    o.send_after,
    o.expires_at <= now(),
    o.attempts,
    left(o.recipient, 200),
    CASE WHEN octet_length(o.body) > 24576 THEN left(o.body, 24577) ELSE o.body END,
    left(o.template, 200),
    left(o.language, 40),
    CASE WHEN pg_column_size(o.params) > 24576 THEN '"more than 24 KiB"' ELSE o.params::text END,
    left(o.sender, 200),
    left(o.gateway, 200),
    now(),
    o.created_at
FROM sms.outbox AS o
WHERE o.queued
    -- The same, unless the row was written while no trigger fired.
    AND o.status = 'queued'
    AND NOT o.held
    AND o.lane = $1
    AND (o.send_after, o.id) > ($2, $3)
    AND (o.send_after, o.id) <= ($4, $5)
    AND o.send_after <= now()
    AND (o.gateway IS NULL OR o.gateway <> ALL ($6::text[]))
ORDER BY o.send_after, o.id
LIMIT $7
