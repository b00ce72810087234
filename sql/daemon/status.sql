-- outboxd: status
-- The health of the whole, one row.
SELECT
    h.due, h.scheduled, h.held, h.unknown, h.oldest_due_seconds, h.all_held, h.held_reason, h.epoch,
    h.leader_host, h.leader_version, h.leader_seen_seconds_ago, h.open_alarms,
    h.receipts_overdue, h.uncertain
FROM sms.health AS h
