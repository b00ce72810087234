-- outboxd: opt_out_remove
-- These people get messages again.
-- $1 numbers text[]
-- Columns: number of each that was opted out. Locks: the rows. Called by outboxd opt-out.
UPDATE sms.opt_out AS x
SET ended_at = now(),
    source = 'operator'
WHERE x.msisdn = ANY ($1::text[])
    AND x.ended_at IS NULL
RETURNING x.msisdn
