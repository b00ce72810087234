-- outboxd: adopt
-- A person says that this database is the one to send from now. A hold by an operator has another reason and stays.
-- After an uncertain failover: what was not due then goes on; what was stays set aside, for a decision of its own.
-- $1 system_identifier bigint, $2 timeline integer
-- Columns: held because the database changed boolean, reason, was uncertain boolean. Called by outboxd adopt. Clears the
-- alarm that asked for it.
WITH cleared AS (
    UPDATE outboxd.alarm AS a
    SET cleared_at = now()
    WHERE a.code = 'database_changed'
        AND a.cleared_at IS NULL
), rung AS MATERIALIZED (
    SELECT pg_notify('outboxd', 'control')
)
UPDATE outboxd.leader AS l
SET system_identifier = $1,
    timeline = $2,
    held = l.held AND NOT before.changed,
    held_code = CASE WHEN NOT before.changed THEN l.held_code END,
    held_reason = CASE WHEN NOT before.changed THEN l.held_reason END,
    held_by = CASE WHEN NOT before.changed THEN l.held_by END,
    held_at = CASE WHEN NOT before.changed THEN l.held_at END,
    uncertain_due = CASE WHEN before.uncertain THEN l.uncertain_since ELSE l.uncertain_due END
FROM (
    SELECT
        b.held AND b.held_code IS NOT DISTINCT FROM 'database_changed' AS changed,
        b.held_reason,
        b.uncertain_due IS NOT DISTINCT FROM 'infinity' AS uncertain
    FROM outboxd.leader AS b
    FOR UPDATE
) AS before
CROSS JOIN rung
RETURNING before.changed, before.held_reason, before.uncertain
