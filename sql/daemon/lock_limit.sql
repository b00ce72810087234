-- outboxd: lock_limit
-- After what silence the server ends this session, and with it the leader's lock. 0: never.
-- Columns: milliseconds bigint. Called by whoever wants to become leader, before it tries.
SELECT (extract(epoch FROM current_setting('idle_session_timeout')::interval) * 1000)::bigint
