-- outboxd: vouch
-- After a failover: a daemon says that all it knows is in this database now, and whom else it had seen alive before.
-- $1 instance text, $2 host text, $3 pid integer, $4 version text, $5 role text, $6 started seconds ago double precision,
-- $7 its own clock bigint, $8 timeline integer, $9 vouches boolean (it remembers everything that may have been lost),
-- $10 the other daemons as heartbeat gave them, JSON text
-- Locks: its own row and theirs. Called by every daemon that lived through a failover, after reapply.
WITH here AS MATERIALIZED (
    SELECT outboxd.timeline() AS timeline
), other AS (
    INSERT INTO outboxd.daemon AS d
        (instance, host, pid, version, role, started_at, seen_at, beat, timeline, vouches)
    SELECT n.instance, n.host, n.pid, n.version, n.role, n.started_at, n.seen_at, n.beat, n.timeline, n.vouches
    FROM json_populate_recordset(NULL::outboxd.daemon, $10::text::json) AS n
    CROSS JOIN here AS h
    WHERE h.timeline = $8
        AND n.timeline <> h.timeline
    ORDER BY n.instance
    ON CONFLICT (instance) DO UPDATE
    SET seen_at = greatest(d.seen_at, excluded.seen_at)
    WHERE d.timeline = excluded.timeline
)
INSERT INTO outboxd.daemon AS d (instance, host, pid, version, role, started_at, beat, timeline, vouches)
SELECT $1, $2, $3, $4, $5, now() - make_interval(secs => $6), $7, h.timeline, $9
FROM here AS h
WHERE h.timeline = $8
ON CONFLICT (instance) DO UPDATE
SET role = excluded.role,
    seen_at = now(),
    beat = excluded.beat,
    timeline = excluded.timeline,
    vouches = excluded.vouches,
    seen_before = CASE WHEN d.timeline = excluded.timeline THEN d.seen_before ELSE d.seen_at END
WHERE d.left_at IS NULL
RETURNING d.instance
