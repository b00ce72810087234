-- outboxd: check_triggers
-- The triggers that the outbox should have, found by what they call, for a site may have renamed them; and those that
-- change a row after it was looked at.
-- Columns: name, part text (doorbell, sound, later), is there boolean, fires boolean (false: disabled or missing).
-- Locks: none. Called by outboxd check.
SELECT
    coalesce(t.tgname::text, w.name),
    w.part,
    t.oid IS NOT NULL,
    -- R fires on replicas only, D never.
    coalesce(t.tgenabled IN ('O', 'A'), false)
FROM (VALUES
    -- 4 is INSERT, 16 is UPDATE.
    ('outbox_ring_insert', 'doorbell', 'outboxd.ring_if_asleep()', 4),
    ('outbox_ring_update', 'doorbell', 'outboxd.ring_if_asleep()', 16),
    ('zzz_outbox_sound', 'sound', 'outboxd.keep_sound()', 4 + 16)
) AS w(name, part, calls, event)
LEFT JOIN LATERAL (
    SELECT f.oid, f.tgname, f.tgenabled
    FROM pg_trigger AS f
    WHERE f.tgrelid = to_regclass('sms.outbox')
        AND f.tgfoid = to_regprocedure(w.calls)
        AND f.tgtype & w.event = w.event
    ORDER BY f.tgenabled IN ('O', 'A') DESC, f.tgname
    LIMIT 1
) AS t ON true
UNION ALL
SELECT f.tgname::text, 'later', true, true
FROM pg_trigger AS f
WHERE f.tgrelid = to_regclass('sms.outbox')
    AND NOT f.tgisinternal
    AND f.tgenabled <> 'D'
    -- 1 is FOR EACH ROW, 2 BEFORE.
    AND f.tgtype & 3 = 3
    AND f.tgtype & (4 + 16) > 0
    AND f.tgfoid IS DISTINCT FROM to_regprocedure('outboxd.keep_sound()')
    AND f.tgname > (
        SELECT min(s.tgname::text)
        FROM pg_trigger AS s
        WHERE s.tgrelid = f.tgrelid
            AND s.tgfoid = to_regprocedure('outboxd.keep_sound()')
    )::name
ORDER BY 1
