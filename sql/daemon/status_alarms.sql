-- outboxd: status_alarms
-- Columns: code, subject, text, seconds open, the time when it was opened.
SELECT
    a.code,
    a.subject,
    a.text,
    extract(epoch FROM now() - a.opened_at)::double precision,
    to_char(a.opened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
FROM outboxd.alarm AS a
WHERE a.cleared_at IS NULL
ORDER BY a.opened_at
