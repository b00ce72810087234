-- outboxd: leader_take
-- Begins a new epoch. Waits for waves of the old one that are being committed, so that reading the waves afterwards
-- sees them all.
-- $1 instance text, $2 system_identifier bigint, $3 timeline integer,
-- $4 hold reason text or NULL: this is not the database that messages were last sent from,
-- $5 uncertain boolean: nobody could tell what the failover lost
-- Columns: epoch, held, held_reason, uncertain_id, uncertain_before, uncertain_due. Locks: the leader row. Called at
-- takeover, under the leader's advisory lock.
WITH old AS (
    -- What was created on the old primary is no younger than the last commit that came from there, by its clock, which may
    -- be ahead of ours. A second more: the times of commits are not quite in the order of the commits. Restarted since,
    -- the server does not know it any more.
    SELECT coalesce(pg_last_xact_replay_timestamp() + interval '1 second', now()) AS clock
), newest AS (
    -- A row may be older than it says: its clock was set back since, or the application gave it a time of its own. Then
    -- its id tells, unless not one row was inserted between that and the failover. What came to this server since has
    -- higher ids, and is not uncertain.
    SELECT max(o.id) AS id
    FROM (
        SELECT i.id
        FROM sms.outbox AS i
        WHERE i.created_at <= (SELECT p.clock FROM old AS p) OR i.created_at > now()
        ORDER BY i.id DESC
        LIMIT 1
    ) AS o
), latest AS (
    SELECT max(o.created_at) AS created_at
    FROM sms.outbox AS o
    WHERE o.queued
        -- Plus 0, as in uncertain.
        AND o.id + 0 <= (SELECT n.id FROM newest AS n)
)
UPDATE outboxd.leader AS l
SET epoch = l.epoch + CASE
        WHEN l.system_identifier IS NULL OR (l.system_identifier, l.timeline) = ($2, $3) THEN 1
        -- Epochs that were begun in what the failover lost must not be begun again.
        ELSE 1000
    END,
    daemon = $1,
    took_over_at = now(),
    -- What is stored stays until a person adopts the change.
    system_identifier = CASE WHEN $4::text IS NULL AND l.held_code IS DISTINCT FROM 'database_changed' THEN $2 ELSE l.system_identifier END,
    timeline = CASE WHEN $4::text IS NULL AND l.held_code IS DISTINCT FROM 'database_changed' THEN $3 ELSE l.timeline END,
    held = l.held OR $4::text IS NOT NULL,
    held_code = CASE WHEN $4::text IS NOT NULL THEN 'database_changed' ELSE l.held_code END,
    held_reason = coalesce($4::text, l.held_reason),
    held_by = CASE WHEN $4::text IS NOT NULL THEN $1 ELSE l.held_by END,
    held_at = CASE WHEN $4::text IS NOT NULL THEN now() ELSE l.held_at END,
    -- Of two failovers that are not settled, what either made uncertain.
    uncertain_id = CASE WHEN $5 THEN greatest((SELECT coalesce(n.id, 0) FROM newest AS n), l.uncertain_id) ELSE l.uncertain_id END,
    uncertain_before = CASE
        WHEN $5 THEN greatest((SELECT p.clock FROM old AS p), (SELECT m.created_at FROM latest AS m), l.uncertain_before)
        ELSE l.uncertain_before
    END,
    uncertain_due = CASE WHEN $5 THEN 'infinity' ELSE l.uncertain_due END,
    uncertain_since = CASE
        WHEN $5 THEN greatest(now(), (SELECT p.clock FROM old AS p), l.uncertain_since)
        ELSE l.uncertain_since
    END,
    -- Nobody, if an earlier failover is not settled either: that one of the two speaks would not do.
    uncertain_leader = CASE
        WHEN NOT $5 THEN l.uncertain_leader
        WHEN l.uncertain_before IS NULL THEN l.daemon
    END
WHERE outboxd.expect_timeline($3)
RETURNING l.epoch, l.held, l.held_reason, l.uncertain_id, l.uncertain_before, l.uncertain_due
