-- outboxd: farewell
-- A daemon stops in good order, and everything it knows is recorded. Its row goes, unless it led last: that it left, and
-- when there was a last sign of life, is still needed.
-- $1 instance text
-- Called after its last heartbeat.
WITH last AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM outboxd.leader AS l WHERE l.daemon = $1) AS led
), gone AS (
    DELETE FROM outboxd.daemon AS d
    USING last AS l
    WHERE d.instance = $1
        AND NOT l.led
)
UPDATE outboxd.daemon AS d
SET left_at = now(),
    seen_at = now()
FROM last AS l
WHERE d.instance = $1
    AND l.led
