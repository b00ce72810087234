-- outboxd: gateway_state
-- Shows the state of a gateway to people, as the leader of this epoch sees it: whoever leads no more must not overwrite
-- what its successor says.
-- $1 name text, $2 state text, $3 reason text, $4 epoch bigint
-- Columns: true; no row if another epoch has begun. Locks: the row of the gateway.
INSERT INTO outboxd.gateway AS g (name, state, reason)
SELECT $1, $2, $3
FROM outboxd.leader AS l
WHERE l.epoch = $4
ON CONFLICT (name) DO UPDATE
SET state = excluded.state,
    reason = excluded.reason,
    since = CASE WHEN g.state = excluded.state THEN g.since ELSE now() END
RETURNING true
