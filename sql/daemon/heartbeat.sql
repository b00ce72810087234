-- outboxd: heartbeat
-- A sign of life of one daemon; forgets those that have been silent for a week.
-- $1 instance text, $2 host text, $3 pid integer, $4 version text, $5 role text, $6 started seconds ago double precision
-- Called by every daemon, every few seconds.
WITH forgotten AS (
    DELETE FROM outboxd.daemon AS d
    WHERE d.seen_at < now() - interval '7 days'
        AND d.instance <> $1
)
INSERT INTO outboxd.daemon AS d (instance, host, pid, version, role, started_at)
VALUES ($1, $2, $3, $4, $5, now() - make_interval(secs => $6))
ON CONFLICT (instance) DO UPDATE
SET role = excluded.role,
    seen_at = now()
