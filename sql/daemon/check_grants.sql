-- outboxd: check_grants
-- What the daemon needs and the connected role may not do. Objects that do not exist are left out: that is the schema's
-- fault.
-- Columns: object, privilege.
-- Locks: none. Needs no privilege. Called by outboxd check.
SELECT 'schema ' || n.nspname, 'USAGE'
FROM pg_namespace AS n
WHERE n.nspname IN ('sms', 'outboxd')
    AND NOT has_schema_privilege(n.oid, 'USAGE')
UNION ALL
SELECT w.schema_name || '.' || w.object, p.privilege
FROM (VALUES
    ('sms', 'outbox', '{SELECT,INSERT,UPDATE}'::text[]),
    ('sms', 'template', '{SELECT}'),
    ('sms', 'health', '{SELECT}'),
    ('sms', 'inbox', '{SELECT,INSERT}'),
    ('sms', 'opt_out', '{SELECT,INSERT,UPDATE}'),
    ('outboxd', 'migration', '{SELECT}'),
    ('outboxd', 'leader', '{SELECT,UPDATE}'),
    ('outboxd', 'daemon', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('outboxd', 'wave', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('outboxd', 'attempt', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('outboxd', 'gateway', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('outboxd', 'alarm', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('outboxd', 'number_plan', '{SELECT,UPDATE}'),
    ('outboxd', 'receipt_watch', '{SELECT,UPDATE}'),
    ('outboxd', 'register', '{SELECT,UPDATE}')
) AS w(schema_name, object, privileges)
CROSS JOIN LATERAL unnest(w.privileges) AS p(privilege)
JOIN pg_namespace AS n ON n.nspname = w.schema_name
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.object
WHERE NOT CASE c.relkind
    WHEN 'S' THEN has_sequence_privilege(c.oid, p.privilege)
    ELSE has_table_privilege(c.oid, p.privilege)
END
UNION ALL
SELECT n.nspname || '.' || f.proname || '()', 'EXECUTE'
FROM pg_proc AS f
JOIN pg_namespace AS n ON n.oid = f.pronamespace
WHERE (n.nspname, f.proname) IN (
        ('sms', 'cancel'), ('sms', 'retry'), ('sms', 'hold'), ('sms', 'resume'), ('outboxd', 'may_become'),
        ('outboxd', 'auto_reply')
    )
    AND NOT has_function_privilege(f.oid, 'EXECUTE')
ORDER BY 1, 2
