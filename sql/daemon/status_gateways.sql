-- outboxd: status_gateways
-- Columns: name, state, reason, seconds in that state.
SELECT g.name, g.state, g.reason, extract(epoch FROM now() - g.since)::double precision
FROM outboxd.gateway AS g
ORDER BY g.name
