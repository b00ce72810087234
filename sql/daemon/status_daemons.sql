-- outboxd: status_daemons
-- Columns: instance, host, pid, version, role, seconds since its last heartbeat.
SELECT d.instance, d.host, d.pid, d.version, d.role, extract(epoch FROM now() - d.seen_at)::double precision
FROM outboxd.daemon AS d
ORDER BY d.role, d.seen_at DESC
