-- outboxd: inbound
-- Writes messages from handsets into the inbox, and what they say about opting out or in. A repetition changes nothing.
-- Each array has one entry a message:
-- $1 senders text[], $2 numbers that they were sent to text[], $3 bodies text[], $4 keywords text[], $5 networks text[],
-- $6 references as they came text[], and what they name, or NULL: $7 ids bigint[], $8 attempts integer[],
-- $9 nonces text[]; $10 times by the gateway's clock, seconds since 1970 bigint[], $11 effects text[] (opt_out, opt_in, NULL),
-- $12 apps text[] of those that answer no message, $13 fingerprints text[] (a uuid each),
-- $14 timeline integer or NULL (expect_timeline)
-- Columns: id of each row that is new.
-- Locks: rows of sms.opt_out, in the order of their numbers. Called by incoming, on every daemon.
--
-- A message is answered when its row carries the reference, or carried it before it was sent again, or when the answer
-- of that very attempt is not recorded yet: people can be quick.
WITH incoming AS (
    SELECT *
    FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::integer[], $9::text[],
        $10::bigint[], $11::text[], $12::text[], $13::text[]
    ) AS i(
        sender, recipient, body, keyword, network, gateway_ref, message_id, attempt, nonce,
        gateway_time, effect, app, fingerprint
    )
), new AS (
    INSERT INTO sms.inbox (
        app, sender, recipient, body, keyword, network, answers, gateway, gateway_ref, gateway_time, effect, fingerprint
    )
    SELECT
        coalesce(o.app, i.app), i.sender, i.recipient, i.body, i.keyword, i.network, o.id, o.sent_via, i.gateway_ref,
        to_timestamp(i.gateway_time), i.effect, i.fingerprint::uuid
    FROM incoming AS i
    LEFT JOIN sms.outbox AS o ON o.id = i.message_id
        AND (
            o.gateway_ref = i.gateway_ref
            OR (
                o.attempts < i.attempt
                AND EXISTS (
                    SELECT FROM outboxd.wave AS w
                    CROSS JOIN LATERAL unnest(w.ids, w.attempts, w.rows_made) AS a(id, attempt, row_made)
                    WHERE w.nonce = i.nonce
                        AND a.id = o.id
                        AND a.attempt = i.attempt
                        AND a.row_made = o.created_at
                )
            )
            OR EXISTS (
                SELECT FROM outboxd.attempt AS a
                WHERE a.message_id = o.id AND a.row_made = o.created_at AND a.gateway_ref = i.gateway_ref
            )
        )
    WHERE (SELECT outboxd.expect_timeline($14))
    -- The same order everywhere: two daemons that are given the same repetitions must not wait for each other.
    ORDER BY i.fingerprint
    ON CONFLICT (fingerprint) DO NOTHING
    RETURNING id, sender, keyword, effect, least(gateway_time, received_at) AS at
), last_word AS (
    -- Of one person's in a batch the latest counts, and of two at the same time the one that wants less.
    SELECT DISTINCT ON (n.sender) n.sender, n.keyword, n.effect, n.at
    FROM new AS n
    WHERE n.effect IS NOT NULL
        AND n.sender ~ '^[1-9][0-9]{6,14}$'
    ORDER BY n.sender, n.at DESC, n.effect DESC
), everywhere AS (
    -- Also for an opt-in of somebody who never opted out: an opt-out that was written before it may come after it.
    INSERT INTO sms.opt_out AS x (msisdn, app, since, ended_at, source, keyword)
    SELECT l.sender, '', l.at, CASE WHEN l.effect = 'opt_in' THEN l.at END, 'reply', l.keyword
    FROM last_word AS l
    ORDER BY l.sender
    ON CONFLICT (msisdn, app) DO UPDATE
    SET since = CASE WHEN excluded.ended_at IS NULL THEN excluded.since ELSE x.since END,
        ended_at = excluded.ended_at,
        source = excluded.source,
        keyword = excluded.keyword,
        reason = NULL
    WHERE CASE
        WHEN excluded.ended_at IS NULL THEN x.ended_at <= excluded.since
        ELSE coalesce(x.ended_at, x.since) < excluded.since
    END
), of_one_application AS (
    UPDATE sms.opt_out AS x
    SET ended_at = l.at,
        source = 'reply',
        keyword = l.keyword
    FROM last_word AS l
    WHERE l.effect = 'opt_in'
        AND x.msisdn = l.sender
        AND x.app <> ''
        AND x.ended_at IS NULL
        AND x.since < l.at
)
SELECT
    n.id,
    -- A queue that nobody empties must not keep replies out.
    CASE WHEN pg_notification_queue_usage() < 0.5 THEN pg_notify('sms_inbox', n.id::text)::text END
FROM new AS n
ORDER BY n.id
