-- outboxd: farewell
-- Removes the row of a daemon that stops in good order, unless it led: its last sign of life is still needed.
-- $1 instance text
DELETE FROM outboxd.daemon AS d
WHERE d.instance = $1
    AND d.role <> 'leader'
