-- outboxd: adopt
-- A person says that this database is the one to send from now.
-- $1 system_identifier bigint, $2 timeline integer
-- Columns: held before boolean, reason before. Called by outboxd adopt. Clears the alarm that asked for it.
WITH cleared AS (
    UPDATE outboxd.alarm AS a
    SET cleared_at = now()
    WHERE a.code = 'database_changed'
        AND a.cleared_at IS NULL
)
UPDATE outboxd.leader AS l
SET system_identifier = $1,
    timeline = $2,
    held = false,
    held_code = NULL,
    held_reason = NULL,
    held_by = NULL,
    held_at = NULL
FROM (SELECT b.held, b.held_reason FROM outboxd.leader AS b FOR UPDATE) AS before
RETURNING before.held, before.held_reason
