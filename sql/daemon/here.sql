-- outboxd: here
-- Which database this is, and what it had heard of a daemon before the failover that made it what it is.
-- $1 instance text
-- Columns: system_identifier, timeline, the daemon's own clock at the last heartbeat that is in here (NULL: none).
-- Locks: none. Called by every daemon when it connects, and after a failover.
SELECT
    c.system_identifier,
    outboxd.timeline(),
    (SELECT d.beat FROM outboxd.daemon AS d WHERE d.instance = $1)
FROM pg_control_system() AS c
