-- outboxd: gateway_state
-- Shows the state of a gateway to people.
-- $1 name text, $2 state text, $3 reason text
INSERT INTO outboxd.gateway AS g (name, state, reason)
VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE
SET state = excluded.state,
    reason = excluded.reason,
    since = CASE WHEN g.state = excluded.state THEN g.since ELSE now() END
