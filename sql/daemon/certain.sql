-- outboxd: certain
-- Nothing is uncertain any more.
-- $1 epoch bigint. Locks: the leader row. Called by the leader.
UPDATE outboxd.leader AS l
SET uncertain_id = NULL,
    uncertain_before = NULL,
    uncertain_due = NULL,
    uncertain_since = NULL,
    uncertain_leader = NULL
WHERE l.epoch = $1
