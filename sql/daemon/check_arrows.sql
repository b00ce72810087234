-- outboxd: check_arrows
-- Which state may become which, as the database has it.
-- $1 statuses text[]
-- Columns: from, to.
-- Locks: none. Called by outboxd check, which compares it with the program's own.
SELECT f.status, t.status
FROM unnest($1::text[]) AS f(status)
CROSS JOIN unnest($1::text[]) AS t(status)
WHERE outboxd.may_become(f.status, t.status)
ORDER BY f.status, t.status
