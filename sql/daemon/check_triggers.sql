-- outboxd: check_triggers
-- The triggers that the outbox should have; found by what they call, for a site may have renamed them.
-- Columns: name, is part of the doorbell boolean, is there boolean, fires boolean (false: disabled or missing).
-- Locks: none. Called by outboxd check.
SELECT
    coalesce(t.tgname::text, w.name),
    w.rings,
    t.oid IS NOT NULL,
    -- R fires on replicas only, D never.
    coalesce(t.tgenabled IN ('O', 'A'), false)
FROM (VALUES
    -- 4 is INSERT, 16 is UPDATE.
    ('outbox_ring_insert', true, 'outboxd.ring_if_asleep()', 4),
    ('outbox_ring_update', true, 'outboxd.ring_if_asleep()', 16),
    ('outbox_sound', false, 'outboxd.keep_sound()', 4 + 16)
) AS w(name, rings, calls, event)
LEFT JOIN LATERAL (
    SELECT f.oid, f.tgname, f.tgenabled
    FROM pg_trigger AS f
    WHERE f.tgrelid = to_regclass('sms.outbox')
        AND f.tgfoid = to_regprocedure(w.calls)
        AND f.tgtype & w.event = w.event
    ORDER BY f.tgenabled IN ('O', 'A') DESC, f.tgname
    LIMIT 1
) AS t ON true
ORDER BY w.name
