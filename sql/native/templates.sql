-- outboxd: templates
-- All templates.
-- Columns: name, language, body, transactional. Locks: none. Called at start and when they change.
SELECT t.name, t.language, t.body, t.transactional
FROM sms.template AS t
ORDER BY t.name, t.language
