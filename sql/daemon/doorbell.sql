-- outboxd: doorbell
-- Whether the doorbell may be relied upon.
-- Columns: boolean (the triggers that ring are there and enabled), boolean (prepared transactions are allowed: one that
-- rang could not be prepared).
SELECT
    (
        SELECT count(*) = 2
        FROM pg_trigger AS t
        WHERE t.tgrelid = 'sms.outbox'::regclass
            AND t.tgname IN ('outbox_ring_insert', 'outbox_ring_update')
            AND t.tgenabled IN ('O', 'A')
    ),
    current_setting('max_prepared_transactions')::integer > 0
