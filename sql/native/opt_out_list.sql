-- outboxd: opt_out_list
-- The next people who want no messages, in the order of their numbers.
-- $1 after this number text, $2 and this app text
-- Columns: msisdn, app, since, source, reason. Locks: none. Called by outboxd opt-out.
SELECT x.msisdn, x.app, x.since, x.source, coalesce(x.reason, x.keyword)
FROM sms.opt_out AS x
WHERE (x.msisdn, x.app) > ($1, $2)
    AND x.ended_at IS NULL
ORDER BY x.msisdn, x.app
LIMIT 1000
