-- outboxd: register
-- Tells the doorbell that the daemon is awake (sign 1) or asleep (sign -1) for so many seconds from now.
-- $1 sign bigint, $2 seconds double precision
-- Not transactional: setval is seen at once.
SELECT setval('outboxd.register', $1 * ((extract(epoch FROM clock_timestamp()) + $2::double precision) * 1000000)::bigint)
