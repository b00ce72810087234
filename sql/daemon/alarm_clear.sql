-- outboxd: alarm_clear
-- The cause of an alarm has gone.
-- $1 code text, $2 subject text
UPDATE outboxd.alarm AS a
SET cleared_at = now()
WHERE a.code = $1
    AND a.subject = $2
    AND a.cleared_at IS NULL
