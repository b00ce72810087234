-- outboxd: auto_reply
-- Answers new messages from handsets by their keywords.
-- $1 ids of the messages bigint[]; each of the next has one entry a keyword: $2 keywords text[], $3 templates text[],
-- $4 effects without which there is no answer text[] (opt_in, NULL);
-- $5 seconds before the same number and keyword are answered again double precision
-- Columns: id of the message, id of the answer or NULL, why none could be queued text or NULL
-- Locks: rows of outboxd.auto_reply, in the order of their numbers. Called by incoming, on every daemon, in the
-- transaction that puts the messages into the inbox.
SELECT m.id, a.answer, a.problem
FROM (
    SELECT i.id, k.template
    FROM sms.inbox AS i
    JOIN unnest($2::text[], $3::text[], $4::text[]) AS k(keyword, template, effect)
        ON k.keyword = i.keyword AND (k.effect IS NULL OR k.effect = i.effect)
    WHERE i.id = ANY ($1::bigint[])
    ORDER BY i.sender, i.keyword, i.id
    -- Keeps this order for what follows.
    OFFSET 0
) AS m
CROSS JOIN LATERAL outboxd.auto_reply(m.id, m.template, $5) AS a
