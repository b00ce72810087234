-- outboxd: place
-- Which database this is, among all there are.
-- Columns: system_identifier bigint, oid of the database oid, its name. Locks: none. Called at start and by outboxd check.
SELECT c.system_identifier, d.oid, d.datname::text
FROM pg_control_system() AS c
CROSS JOIN pg_database AS d
WHERE d.datname = current_database()
