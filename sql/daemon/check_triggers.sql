-- outboxd: check_triggers
-- The triggers that the outbox should have.
-- Columns: name, is part of the doorbell boolean, fires boolean (false: disabled or missing).
-- Locks: none. Called by outboxd check.
SELECT
    w.name,
    w.rings,
    -- R fires on replicas only, D never.
    coalesce(t.tgenabled IN ('O', 'A'), false)
FROM (VALUES
    ('outbox_ring_insert', true),
    ('outbox_ring_update', true),
    ('outbox_defaults_insert', false),
    ('outbox_defaults_update', false)
) AS w(name, rings)
LEFT JOIN pg_trigger AS t ON t.tgname = w.name AND t.tgrelid = to_regclass('sms.outbox')
