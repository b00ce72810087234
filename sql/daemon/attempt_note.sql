-- outboxd: attempt_note
-- Keeps results that no longer fitted their row: a true result is never thrown away.
-- $1 ids bigint[], $2 attempts integer[], $3 gateways text[], $4 gateway_refs text[], $5 verdicts text[], $6 notes text[],
-- $7 created_at timestamptz[]
INSERT INTO outboxd.attempt (message_id, message_created_at, attempt, gateway, gateway_ref, verdict, note)
SELECT n.id, n.created_at, n.attempt, n.gateway, n.gateway_ref, n.verdict, n.note
FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
    AS n(id, attempt, gateway, gateway_ref, verdict, note, created_at)
