-- outboxd: mark_overdue
-- Says in rows that were accepted long ago that no receipt has come.
-- $1 age in seconds double precision
-- Columns: how many bigint. Locks: those rows. Called by sweep.
SELECT outboxd.mark_overdue($1)
