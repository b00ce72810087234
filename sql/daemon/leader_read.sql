-- outboxd: leader_read
-- The leader row, the cluster that we are connected to, and how long ago a leader was last alive.
-- Columns: epoch, held, held_code, held_reason, stored system_identifier, stored timeline, present system_identifier,
-- present timeline, seconds since a leader's last heartbeat (NULL: never).
-- Locks: none. Called at takeover and by check.
SELECT
    l.epoch,
    l.held,
    l.held_code,
    l.held_reason,
    l.system_identifier,
    l.timeline,
    c.system_identifier,
    ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer,
    (
        SELECT extract(epoch FROM clock_timestamp() - max(d.seen_at))::double precision
        FROM outboxd.daemon AS d
        WHERE d.role = 'leader'
    )
FROM outboxd.leader AS l
CROSS JOIN pg_control_system() AS c
