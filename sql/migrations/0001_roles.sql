-- outboxd: migration 0001
--
-- Why: three group roles, so that nobody needs more than the job takes. Login roles are made by the site and
-- granted one of them; the schemas belong to whoever runs the migration.
-- Locks: none that an application would notice.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['outboxd_app', 'outboxd_daemon', 'outboxd_operator'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION
                -- Roles belong to the whole cluster: a migration of another database may have been quicker.
                WHEN duplicate_object OR unique_violation THEN NULL;
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'role % does not exist and % may not create it', wanted, current_user
                        USING HINT = pg_catalog.format('Have a superuser run: CREATE ROLE %I NOLOGIN; then migrate again.', wanted);
            END;
        END IF;
    END LOOP;
END
$$;

CREATE SCHEMA sms;
CREATE SCHEMA outboxd;

COMMENT ON SCHEMA sms IS 'What applications see of outboxd: the outbox, templates, and the functions to cancel and retry.';
COMMENT ON SCHEMA outboxd IS 'The daemon''s own tables. Applications neither need nor see them.';

REVOKE ALL ON SCHEMA sms, outboxd FROM PUBLIC;
GRANT USAGE ON SCHEMA sms TO outboxd_app, outboxd_daemon, outboxd_operator;
GRANT USAGE ON SCHEMA outboxd TO outboxd_daemon, outboxd_operator;

CREATE TABLE outboxd.migration (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    applied_by text NOT NULL DEFAULT session_user
);

COMMENT ON TABLE outboxd.migration IS 'Which migrations this database has had.';
COMMENT ON COLUMN outboxd.migration.version IS 'Number of the migration.';
COMMENT ON COLUMN outboxd.migration.name IS 'Its file name.';
COMMENT ON COLUMN outboxd.migration.sha256 IS 'Hash of its text: an applied migration never changes.';
COMMENT ON COLUMN outboxd.migration.applied_at IS 'When it was applied.';
COMMENT ON COLUMN outboxd.migration.applied_by IS 'By whom.';

GRANT SELECT ON outboxd.migration TO outboxd_daemon, outboxd_operator;
