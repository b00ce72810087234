-- outboxd: leader_take
-- Begins a new epoch. Waits for waves of the old one that are being committed, so that reading the waves afterwards
-- sees them all.
-- $1 instance text, $2 system_identifier bigint, $3 timeline integer,
-- $4 hold reason text or NULL: this is not the database that messages were last sent from
-- Columns: epoch, held, held_reason. Locks: the leader row. Called at takeover, under the leader's advisory lock.
UPDATE outboxd.leader AS l
SET epoch = l.epoch + 1,
    daemon = $1,
    took_over_at = now(),
    -- What is stored stays until a person adopts the change.
    system_identifier = CASE WHEN $4::text IS NULL AND l.held_code IS DISTINCT FROM 'database_changed' THEN $2 ELSE l.system_identifier END,
    timeline = CASE WHEN $4::text IS NULL AND l.held_code IS DISTINCT FROM 'database_changed' THEN $3 ELSE l.timeline END,
    held = l.held OR $4::text IS NOT NULL,
    held_code = CASE WHEN $4::text IS NOT NULL THEN 'database_changed' ELSE l.held_code END,
    held_reason = coalesce($4::text, l.held_reason),
    held_by = CASE WHEN $4::text IS NOT NULL THEN $1 ELSE l.held_by END,
    held_at = CASE WHEN $4::text IS NOT NULL THEN now() ELSE l.held_at END
RETURNING l.epoch, l.held, l.held_reason
