-- outboxd: check_server
-- Where we are connected, as whom, and what that role is.
-- Columns: server_version_num integer, server_version, user, database, in recovery boolean, TLS version or NULL,
-- max_prepared_transactions integer, superuser boolean, owns the outbox boolean, is held back by row-level security
-- unless it has the role outboxd_daemon boolean, has that role boolean, its clock in seconds since 1970.
-- Locks: none. Needs no privilege. Called by outboxd check.
SELECT
    current_setting('server_version_num')::integer,
    current_setting('server_version'),
    current_user::text,
    current_database()::text,
    pg_is_in_recovery(),
    (SELECT s.version FROM pg_stat_ssl AS s WHERE s.pid = pg_backend_pid() AND s.ssl),
    current_setting('max_prepared_transactions')::integer,
    r.rolsuper,
    o.owns,
    NOT (r.rolsuper OR r.rolbypassrls OR o.owns),
    EXISTS (
        SELECT FROM pg_roles AS d
        WHERE d.rolname = 'outboxd_daemon'
            AND pg_has_role(d.oid, 'USAGE')
    ),
    extract(epoch FROM clock_timestamp())::double precision
FROM pg_roles AS r
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'sms'
            AND c.relname = 'outbox'
            AND c.relowner = r.oid
    )
) AS o(owns)
WHERE r.rolname = current_user
