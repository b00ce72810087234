-- outboxd: check_columns
-- Columns of the outbox that have another type than they should. The server runs every statement with them, and returns
-- what we cannot read. One text is as good as another.
-- Columns: name, type, type that it should have.
-- Locks: none. Called by outboxd check.
SELECT
    'sms.outbox.' || a.attname,
    format_type(a.atttypid, NULL),
    format_type(w.type, NULL)
FROM (VALUES
    ('id', 'bigint'::regtype),
    ('app', 'text'),
    ('recipient', 'text'),
    ('body', 'text'),
    ('template', 'text'),
    ('language', 'text'),
    ('params', 'json'),
    ('sender', 'text'),
    ('gateway', 'text'),
    ('lane', 'text'),
    ('send_after', 'timestamptz'),
    ('expires_at', 'timestamptz'),
    ('status', 'text'),
    ('held', 'boolean'),
    ('attempts', 'integer'),
    ('error_code', 'text'),
    ('error', 'text'),
    ('sent_via', 'text'),
    ('gateway_ref', 'text'),
    ('gateway_message_id', 'text'),
    ('encoding', 'text'),
    ('segments', 'smallint'),
    ('created_at', 'timestamptz'),
    ('sent_at', 'timestamptz'),
    ('final_at', 'timestamptz')
) AS w(name, type)
JOIN pg_attribute AS a ON a.attrelid = to_regclass('sms.outbox') AND a.attname = w.name AND NOT a.attisdropped
WHERE a.atttypid <> w.type
    AND NOT (w.type = 'text'::regtype AND a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype))
ORDER BY a.attnum
