-- outboxd: doorbell
-- Whether the doorbell may be relied upon, and whether we see anything at all.
-- Columns: boolean (triggers that ring for INSERT and UPDATE are there and enabled, whatever their names), boolean
-- (prepared transactions are allowed: one that rang could not be prepared), boolean (row-level security hides nothing).
-- Locks: none. Called at start, and by the leader with every poll.
SELECT
    (
        -- 4 is INSERT, 16 is UPDATE. R fires on replicas only, D never.
        SELECT coalesce(bool_or(t.tgtype & 4 > 0) AND bool_or(t.tgtype & 16 > 0), false)
        FROM pg_trigger AS t
        WHERE t.tgrelid = to_regclass('sms.outbox')
            AND t.tgfoid = to_regprocedure('outboxd.ring_if_asleep()')
            AND t.tgenabled IN ('O', 'A')
    ),
    current_setting('max_prepared_transactions')::integer > 0,
    NOT EXISTS (
        SELECT FROM pg_class AS c
        JOIN pg_roles AS r ON r.rolname = current_user
        WHERE c.oid = to_regclass('sms.outbox')
            AND c.relrowsecurity
            AND NOT (r.rolsuper OR r.rolbypassrls OR c.relowner = r.oid)
            AND NOT EXISTS (
                SELECT FROM pg_policy AS p
                CROSS JOIN LATERAL unnest(p.polroles) AS for_role(oid)
                WHERE p.polrelid = c.oid
                    AND p.polpermissive
                    AND p.polcmd = '*'
                    AND (for_role.oid = 0 OR pg_has_role(for_role.oid, 'USAGE'))
            )
    )
