-- outboxd: refusals_over
-- Refused requests that named no message are for a person for three days: by then, messages that got no receipt say so
-- themselves.
UPDATE outboxd.alarm AS a
SET cleared_at = now()
WHERE a.code = 'request_refused'
    AND a.cleared_at IS NULL
    AND a.seen_at < now() - interval '3 days'
