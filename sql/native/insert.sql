-- outboxd: insert
-- Queues one message for an administrator (outboxd send).
-- $1 recipient, $2 body, $3 template, $4 params text, $5 sender, $6 gateway, $7 lane, $8 language
-- Columns: id.
INSERT INTO sms.outbox (recipient, body, template, params, sender, gateway, lane, language)
VALUES ($1, $2, $3, $4::text::json, $5, $6, $7, $8)
RETURNING id
