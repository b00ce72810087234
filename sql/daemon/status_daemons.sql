-- outboxd: status_daemons
-- Columns: instance, host, pid, version, role (or that it stopped in good order), seconds since its last heartbeat.
SELECT
    d.instance,
    d.host,
    d.pid,
    d.version,
    CASE WHEN d.left_at IS NULL THEN d.role ELSE 'stopped' END,
    extract(epoch FROM now() - d.seen_at)::double precision
FROM outboxd.daemon AS d
ORDER BY d.left_at IS NOT NULL, d.role, d.seen_at DESC
