-- outboxd: alarm_clear_since
-- The cause of an alarm has gone, if it was raised no longer ago than that.
-- $1 code text, $2 subject text, $3 seconds double precision
UPDATE outboxd.alarm AS a
SET cleared_at = now()
WHERE a.code = $1
    AND a.subject = $2
    AND a.cleared_at IS NULL
    AND a.opened_at >= now() - make_interval(secs => $3)
