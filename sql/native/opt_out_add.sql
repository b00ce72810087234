-- outboxd: opt_out_add
-- Adds people who want no messages. One who opted in again after the given time is left alone.
-- $1 numbers text[], $2 apps text[] (empty: of no application), $3 since timestamptz[] (NULL: now), $4 sources text[],
-- $5 reasons text[]. A pair of number and app stands once.
-- Columns: number of each that was not opted out before. Locks: the rows. Called by outboxd opt-out.
INSERT INTO sms.opt_out AS x (msisdn, app, since, source, reason)
SELECT n.msisdn, n.app, coalesce(n.since, now()), n.source, n.reason
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[]) AS n(msisdn, app, since, source, reason)
ORDER BY n.msisdn COLLATE "C", n.app
ON CONFLICT (msisdn, app) DO UPDATE
SET since = excluded.since,
    ended_at = NULL,
    source = excluded.source,
    keyword = NULL,
    reason = excluded.reason
WHERE x.ended_at <= excluded.since
RETURNING x.msisdn
