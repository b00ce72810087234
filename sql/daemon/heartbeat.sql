-- outboxd: heartbeat
-- A sign of life of one daemon; forgets those that have been silent for a week.
-- $1 instance text, $2 host text, $3 pid integer, $4 version text, $5 role text, $6 started seconds ago double precision,
-- $7 its own clock bigint, $8 timeline integer of the database that has all it knows
-- Columns: system_identifier, timeline of this server, the other daemons alive as JSON text.
-- On another timeline nothing is written: what stands there of this daemon is from before the failover, and tells
-- others what they must ask it. It speaks first (vouch).
-- Called by every daemon, every few seconds.
WITH here AS MATERIALIZED (
    SELECT outboxd.timeline() AS timeline
), forgotten AS (
    DELETE FROM outboxd.daemon AS d
    WHERE d.seen_at < now() - interval '7 days'
        AND d.instance <> $1
), beat AS (
    INSERT INTO outboxd.daemon AS d (instance, host, pid, version, role, started_at, beat, timeline)
    SELECT $1, $2, $3, $4, $5, now() - make_interval(secs => $6), $7, h.timeline
    FROM here AS h
    WHERE h.timeline = $8
    ON CONFLICT (instance) DO UPDATE
    SET role = excluded.role,
        seen_at = now(),
        beat = excluded.beat
    WHERE d.timeline = excluded.timeline
        AND d.left_at IS NULL
)
SELECT
    c.system_identifier,
    h.timeline,
    (
        SELECT coalesce(json_agg(d), '[]')::text
        FROM outboxd.daemon AS d
        WHERE d.instance <> $1
            AND d.left_at IS NULL
            AND d.seen_at > now() - interval '2 minutes'
    )
FROM here AS h
CROSS JOIN pg_control_system() AS c
