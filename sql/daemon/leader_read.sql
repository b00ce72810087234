-- outboxd: leader_read
-- The leader row, and the cluster that we are connected to.
-- Columns: epoch, held, held_code, held_reason, stored system_identifier, stored timeline, present system_identifier,
-- present timeline, instance that led last, uncertain_id, uncertain_before and uncertain_due (see the comments of outboxd.leader).
-- Locks: none. Called at takeover and by commands.
SELECT
    l.epoch,
    l.held,
    l.held_code,
    l.held_reason,
    l.system_identifier,
    l.timeline,
    c.system_identifier,
    outboxd.timeline(),
    l.daemon,
    l.uncertain_id,
    l.uncertain_before,
    l.uncertain_due
FROM outboxd.leader AS l
CROSS JOIN pg_control_system() AS c
