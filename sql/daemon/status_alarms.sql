-- outboxd: status_alarms
-- Columns: code, subject, text, seconds open.
SELECT a.code, a.subject, a.text, extract(epoch FROM now() - a.opened_at)::double precision
FROM outboxd.alarm AS a
WHERE a.cleared_at IS NULL
ORDER BY a.opened_at
