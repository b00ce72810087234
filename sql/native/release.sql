-- outboxd: release
-- Lets go what was set aside as uncertain after a failover and is so no more: somebody could tell after all, or a person
-- has said that this is the database to send from.
-- Columns: id. Locks: at most 1,000 rows; skips locked ones. Called by the leader.
UPDATE sms.outbox AS o
SET held = false,
    error_code = NULL,
    error = NULL
FROM (
    SELECT h.id
    FROM sms.outbox AS h
    CROSS JOIN outboxd.leader AS l
    WHERE h.held
        AND h.error_code = 'failover_uncertain'
        AND (h.id <= l.uncertain_id AND h.created_at <= l.uncertain_before AND h.send_after <= l.uncertain_due) IS NOT TRUE
    ORDER BY h.id
    LIMIT 1000
    FOR NO KEY UPDATE OF h SKIP LOCKED
) AS free
WHERE o.id = free.id
RETURNING o.id
