-- outboxd: alarm_open
-- Raises an alarm, or says that its cause is still there.
-- $1 code text, $2 subject text, $3 text
INSERT INTO outboxd.alarm AS a (code, subject, text)
VALUES ($1, $2, $3)
ON CONFLICT (code, subject) WHERE cleared_at IS NULL DO UPDATE
SET text = excluded.text,
    seen_at = now()
