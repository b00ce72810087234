-- outboxd: templates
-- All templates.
-- Columns: name, language, body. Locks: none. Called at start and when they change.
SELECT t.name, t.language, t.body
FROM sms.template AS t
ORDER BY t.name, t.language
