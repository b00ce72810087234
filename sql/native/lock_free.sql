-- outboxd: lock_free
-- Locks those of the rows that nobody else has locked, so that one locked row cannot stop the results of the others.
-- $1 ids bigint[]
-- Columns: id. Locks: the rows returned, until the end of the transaction; never waits.
-- Called by record after a lock_timeout, in the transaction that then writes them.
SELECT o.id
FROM sms.outbox AS o
WHERE o.id = ANY ($1)
ORDER BY o.id
FOR NO KEY UPDATE SKIP LOCKED
