-- outboxd: adopt
-- A person says that this database is the one to send from now. A hold by an operator has another reason and stays.
-- $1 system_identifier bigint, $2 timeline integer
-- Columns: held because the database changed boolean, reason. Called by outboxd adopt. Clears the alarm that asked for it.
WITH cleared AS (
    UPDATE outboxd.alarm AS a
    SET cleared_at = now()
    WHERE a.code = 'database_changed'
        AND a.cleared_at IS NULL
)
UPDATE outboxd.leader AS l
SET system_identifier = $1,
    timeline = $2,
    held = l.held AND NOT before.changed,
    held_code = CASE WHEN NOT before.changed THEN l.held_code END,
    held_reason = CASE WHEN NOT before.changed THEN l.held_reason END,
    held_by = CASE WHEN NOT before.changed THEN l.held_by END,
    held_at = CASE WHEN NOT before.changed THEN l.held_at END
FROM (
    SELECT b.held AND b.held_code IS NOT DISTINCT FROM 'database_changed' AS changed, b.held_reason
    FROM outboxd.leader AS b
    FOR UPDATE
) AS before
RETURNING before.changed, before.held_reason
