-- outboxd: attempt_note
-- Keeps results that no longer fitted their row: a true result is never thrown away.
-- $1 ids bigint[], $2 created_at of the rows timestamptz[], $3 attempts integer[], $4 gateways text[],
-- $5 gateway_refs text[], $6 verdicts text[], $7 notes text[]
INSERT INTO outboxd.attempt (message_id, row_made, attempt, gateway, gateway_ref, verdict, note)
SELECT n.id, n.row_made, n.attempt, n.gateway, n.gateway_ref, n.verdict, n.note
FROM unnest($1::bigint[], $2::timestamptz[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::text[])
    AS n(id, row_made, attempt, gateway, gateway_ref, verdict, note)
