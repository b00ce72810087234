-- outboxd: suspects
-- What a request may have been about that was refused without a reference, see the function.
-- $1 gateways text[], $2 and $3 between how many seconds before now it was accepted double precision,
-- $4 seconds for which results were heard double precision, $5 the daemon that heard them text
-- Columns: reference text; NULL: there may be more.
SELECT s FROM outboxd.suspects($1, $2, $3, $4, $5) AS s
