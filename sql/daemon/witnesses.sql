-- outboxd: witnesses
-- The daemons that may know what a failover lost: those that were there before it.
-- Columns: instance, host, led boolean (the last leader before this one), led_before boolean (the last before the
-- failover that is not settled yet), spoke boolean (all it knows is in here), vouches boolean, left boolean (stopped in
-- good order before), seconds between its last sign of life before the failover and the last of any, seconds since that
-- one.
-- Locks: none. Called at takeover, and by the leader while something is uncertain.
WITH before AS MATERIALIZED (
    SELECT
        d.instance,
        d.host,
        d.timeline = outboxd.timeline() AS spoke,
        d.vouches,
        d.left_at IS NOT NULL AS has_left,
        CASE WHEN d.timeline = outboxd.timeline() THEN d.seen_before ELSE d.seen_at END AS seen_at
    FROM outboxd.daemon AS d
)
SELECT
    b.instance,
    b.host,
    b.instance IS NOT DISTINCT FROM l.daemon,
    b.instance IS NOT DISTINCT FROM l.uncertain_leader,
    b.spoke,
    b.vouches,
    b.has_left,
    extract(epoch FROM (SELECT max(m.seen_at) FROM before AS m) - b.seen_at)::double precision,
    extract(epoch FROM clock_timestamp() - (SELECT max(m.seen_at) FROM before AS m))::double precision
FROM before AS b
CROSS JOIN outboxd.leader AS l
WHERE b.seen_at IS NOT NULL
    OR NOT b.vouches
    OR b.instance IN (l.daemon, l.uncertain_leader)
ORDER BY b.instance
