-- outboxd: select_by_status
-- The next ids in a state, for bulk commands with a progress bar.
-- $1 status text, $2 after id bigint, $3 queued within so many seconds double precision or NULL: ever, $4 limit bigint,
-- $5 error_code text or NULL: any
-- Columns: id. Locks: none.
-- A branch for each state that has an index of its own, of which one is carried out: with one condition for all of
-- them, ten million rows would be read to find five.
SELECT found.id
FROM (
    (
        SELECT o.id
        FROM sms.outbox AS o
        WHERE $1 = 'unknown'
            AND o.unresolved
            AND o.id > $2
            AND ($3::double precision IS NULL OR o.created_at >= now() - make_interval(secs => $3))
            AND ($5::text IS NULL OR o.error_code = $5)
        ORDER BY o.id
        LIMIT $4
    )
    UNION ALL
    (
        SELECT o.id
        FROM sms.outbox AS o
        WHERE $1 = 'held'
            AND o.held
            AND o.id > $2
            AND ($3::double precision IS NULL OR o.created_at >= now() - make_interval(secs => $3))
            AND ($5::text IS NULL OR o.error_code = $5)
        ORDER BY o.id
        LIMIT $4
    )
    UNION ALL
    (
        SELECT o.id
        FROM sms.outbox AS o
        WHERE $1 NOT IN ('unknown', 'held')
            AND o.status = $1
            -- A held row is a state of its own here.
            AND NOT o.held
            AND o.id > $2
            AND ($3::double precision IS NULL OR o.created_at >= now() - make_interval(secs => $3))
            AND ($5::text IS NULL OR o.error_code = $5)
        ORDER BY o.id
        LIMIT $4
    )
) AS found
ORDER BY found.id
