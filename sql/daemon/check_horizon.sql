-- outboxd: check_horizon
-- What keeps VACUUM from removing dead rows of this database: whoever may still see an old state of it.
-- Columns: kind, name, what else is known of it, age in transactions bigint, seconds or NULL where the server does not
-- tell us. Oldest first.
-- Locks: none. Needs no privilege; without pg_read_all_stats others' sessions tell neither times nor what kind of process
-- they are, so standbys are known by pg_stat_replication. A slot with a horizon for the system catalogs alone keeps no
-- dead rows of the outbox. Called by outboxd check.
SELECT h.kind, h.name, h.about, age(h.horizon)::bigint, h.seconds
FROM (
    SELECT
        'session' AS kind,
        a.pid::text AS name,
        concat_ws(', ', 'user ' || a.usename, nullif(a.application_name, ''), a.state) AS about,
        coalesce(a.backend_xmin, a.backend_xid) AS horizon,
        extract(epoch FROM clock_timestamp() - a.xact_start)::double precision AS seconds
    FROM pg_stat_activity AS a
    WHERE a.pid <> pg_backend_pid()
        AND a.datname = current_database()
    UNION ALL
    SELECT
        'standby',
        coalesce(nullif(r.application_name, ''), r.pid::text),
        concat_ws(', ', 'pid ' || r.pid, 'user ' || r.usename, host(r.client_addr)),
        r.backend_xmin,
        NULL
    FROM pg_stat_replication AS r
    JOIN pg_stat_activity AS a ON a.pid = r.pid
    -- One with a database copies rows for a subscription, as a session of that database.
    WHERE a.datid IS NULL
    UNION ALL
    SELECT
        'prepared',
        p.gid,
        'user ' || p.owner,
        p.transaction,
        extract(epoch FROM clock_timestamp() - p.prepared)::double precision
    FROM pg_prepared_xacts AS p
    WHERE p.database = current_database()
    UNION ALL
    SELECT
        CASE WHEN s.xmin IS NULL THEN 'catalog_slot' WHEN s.active THEN 'used_slot' ELSE 'slot' END,
        s.slot_name::text,
        concat_ws(', ', s.slot_type, CASE WHEN s.active THEN 'active' ELSE 'nobody is connected to it' END),
        coalesce(s.xmin, s.catalog_xmin),
        NULL
    FROM pg_replication_slots AS s
) AS h
WHERE h.horizon IS NOT NULL
ORDER BY 4 DESC, 1, 2
LIMIT 20
