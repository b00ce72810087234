-- outboxd: migration 0002
--
-- Why: what the daemon must remember to lose nothing and double nothing: who leads, what is under way, what went
-- wrong. The outbox itself follows in 0003 and needs the doorbell that is made here.
-- Locks: only new objects.

CREATE TABLE outboxd.leader (
    one               boolean PRIMARY KEY DEFAULT true CONSTRAINT leader_is_one_row CHECK (one),
    epoch             bigint NOT NULL DEFAULT 0,
    daemon            text,
    took_over_at      timestamptz,
    held              boolean NOT NULL DEFAULT false,
    held_code         text,
    held_reason       text,
    held_by           text,
    held_at           timestamptz,
    system_identifier bigint,
    timeline          integer,
    uncertain_id      bigint,
    uncertain_before  timestamptz,
    uncertain_due     timestamptz,
    uncertain_since   timestamptz,
    uncertain_leader  text
) WITH (fillfactor = 10);

INSERT INTO outboxd.leader DEFAULT VALUES;

COMMENT ON TABLE outboxd.leader IS 'One row: which daemon may send. Every wave locks it FOR SHARE and compares the epoch.';
COMMENT ON COLUMN outboxd.leader.one IS 'Always true: keeps the table to one row.';
COMMENT ON COLUMN outboxd.leader.epoch IS 'Grows with every change of leadership; a wave of an older epoch is refused.';
COMMENT ON COLUMN outboxd.leader.daemon IS 'Instance that leads, see outboxd.daemon.';
COMMENT ON COLUMN outboxd.leader.took_over_at IS 'When this epoch began.';
COMMENT ON COLUMN outboxd.leader.held IS 'True: nothing is sent until a person says so (sms.resume(), outboxd adopt).';
COMMENT ON COLUMN outboxd.leader.held_code IS 'operator: held by sms.hold(). database_changed: this is not the database that messages were sent from.';
COMMENT ON COLUMN outboxd.leader.held_reason IS 'The same in words.';
COMMENT ON COLUMN outboxd.leader.held_by IS 'Role or daemon that held it.';
COMMENT ON COLUMN outboxd.leader.held_at IS 'Since when.';
COMMENT ON COLUMN outboxd.leader.system_identifier IS 'Identity of the PostgreSQL cluster that messages are sent from; a copy restored elsewhere differs.';
COMMENT ON COLUMN outboxd.leader.timeline IS 'Timeline of that cluster; grows with every promotion of a replica or recovery from a backup.';
COMMENT ON COLUMN outboxd.leader.uncertain_id IS 'After a failover of which nobody could tell what it lost: messages up to this id may have been sent although they are queued.';
COMMENT ON COLUMN outboxd.leader.uncertain_before IS 'Of those, the ones that were created until then: an application may give later messages lower ids.';
COMMENT ON COLUMN outboxd.leader.uncertain_due IS 'Of those, the ones that are due until then are set aside for a person: all of them, until outboxd adopt.';
COMMENT ON COLUMN outboxd.leader.uncertain_since IS 'When the first leader after that failover took over, by the clock of the old or the new server that was ahead.';
COMMENT ON COLUMN outboxd.leader.uncertain_leader IS 'Instance that led before that failover, see outboxd.daemon. NULL: there were two failovers, and a person must decide.';

-- A failover or a recovery begins another timeline; a standby has none of its own.
CREATE FUNCTION outboxd.timeline() RETURNS integer
LANGUAGE sql VOLATILE
AS $$
    SELECT ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::pg_catalog.bit(32)::integer
$$;

COMMENT ON FUNCTION outboxd.timeline() IS 'Timeline that this server writes.';

-- A daemon may be connected to two servers at once: the present primary, and an old one that came back. What it writes
-- into the wrong one would be lost.
CREATE FUNCTION outboxd.expect_timeline(expected integer) RETURNS boolean
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF expected <> outboxd.timeline() THEN
        RAISE EXCEPTION 'this server is on timeline %, and timeline % was expected', outboxd.timeline(), expected
            USING ERRCODE = 'OB001';
    END IF;
    RETURN true;
END
$$;

COMMENT ON FUNCTION outboxd.expect_timeline(integer) IS 'True, or an error if this is not the server that a statement was meant for. NULL: any will do.';

CREATE TABLE outboxd.daemon (
    instance   text PRIMARY KEY,
    host       text NOT NULL,
    pid        integer NOT NULL,
    version    text NOT NULL,
    role       text NOT NULL CONSTRAINT daemon_role_known CHECK (role IN ('leader', 'standby')),
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT now(),
    beat       bigint NOT NULL DEFAULT 0,
    timeline   integer NOT NULL DEFAULT outboxd.timeline(),
    vouches    boolean NOT NULL DEFAULT true,
    seen_before timestamptz,
    left_at    timestamptz
) WITH (fillfactor = 50);

COMMENT ON TABLE outboxd.daemon IS 'The daemons at work on this outbox, one of them leading, each with its last sign of life.';
COMMENT ON COLUMN outboxd.daemon.instance IS 'Random name of one run of one daemon.';
COMMENT ON COLUMN outboxd.daemon.host IS 'Host that it runs on.';
COMMENT ON COLUMN outboxd.daemon.pid IS 'Its process id there.';
COMMENT ON COLUMN outboxd.daemon.version IS 'Its version.';
COMMENT ON COLUMN outboxd.daemon.role IS 'leader or standby.';
COMMENT ON COLUMN outboxd.daemon.started_at IS 'When it started.';
COMMENT ON COLUMN outboxd.daemon.seen_at IS 'Its last heartbeat.';
COMMENT ON COLUMN outboxd.daemon.beat IS 'Its own clock then: what it had recorded by that time is in every database that holds this.';
COMMENT ON COLUMN outboxd.daemon.timeline IS 'Timeline of the database that has all it knows. Behind outboxd.timeline(): after the failover it has said nothing yet.';
COMMENT ON COLUMN outboxd.daemon.vouches IS 'False: it did not remember as far back as the last failover went.';
COMMENT ON COLUMN outboxd.daemon.seen_before IS 'Its last heartbeat before the last failover. NULL: it was not there.';
COMMENT ON COLUMN outboxd.daemon.left_at IS 'When it stopped in good order, with everything recorded.';

CREATE TABLE outboxd.wave (
    epoch      bigint NOT NULL,
    seq        bigint NOT NULL,
    gateway    text NOT NULL,
    nonce      text NOT NULL,
    ids        bigint[] NOT NULL,
    attempts   integer[] NOT NULL,
    rows_made  timestamptz[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (epoch, seq)
);

-- A wave lives for some milliseconds. Compressing its arrays was a fifth of what writing it cost.
ALTER TABLE outboxd.wave
    ALTER COLUMN ids SET STORAGE EXTERNAL,
    ALTER COLUMN attempts SET STORAGE EXTERNAL,
    ALTER COLUMN rows_made SET STORAGE EXTERNAL;

COMMENT ON TABLE outboxd.wave IS 'Attempts that may be under way: committed before the first byte leaves, deleted when every result is recorded. What stands here after a crash is unknown.';
COMMENT ON COLUMN outboxd.wave.epoch IS 'Leadership under which the wave was committed.';
COMMENT ON COLUMN outboxd.wave.seq IS 'Number of the wave within its epoch.';
COMMENT ON COLUMN outboxd.wave.gateway IS 'Gateway that the messages go to.';
COMMENT ON COLUMN outboxd.wave.nonce IS 'Random text, part of every NotifyId of the wave: ids may be used again, this is not.';
COMMENT ON COLUMN outboxd.wave.ids IS 'Messages of the wave. Empty: a wave whose commit was in doubt and that was given up.';
COMMENT ON COLUMN outboxd.wave.attempts IS 'Number of the attempt, for each message.';
COMMENT ON COLUMN outboxd.wave.rows_made IS 'created_at of each message: tells it from another that is given its id later.';
COMMENT ON COLUMN outboxd.wave.created_at IS 'When the wave was committed.';

CREATE TABLE outboxd.attempt (
    message_id  bigint NOT NULL,
    row_made    timestamptz,
    attempt     integer NOT NULL,
    gateway     text,
    gateway_ref text,
    verdict     text NOT NULL,
    note        text,
    at          timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX attempt_message ON outboxd.attempt (message_id);

COMMENT ON TABLE outboxd.attempt IS 'History of what did not go smoothly: attempts that were given up as unknown and sent again, results that no longer fitted their row.';
COMMENT ON COLUMN outboxd.attempt.message_id IS 'sms.outbox.id';
COMMENT ON COLUMN outboxd.attempt.row_made IS 'sms.outbox.created_at: with the id, which message it was.';
COMMENT ON COLUMN outboxd.attempt.attempt IS 'Number of the attempt.';
COMMENT ON COLUMN outboxd.attempt.gateway IS 'Gateway of the attempt.';
COMMENT ON COLUMN outboxd.attempt.gateway_ref IS 'NotifyId of the attempt: a late receipt for it still finds its message.';
COMMENT ON COLUMN outboxd.attempt.verdict IS 'What was known of it.';
COMMENT ON COLUMN outboxd.attempt.note IS 'What happened, in words.';
COMMENT ON COLUMN outboxd.attempt.at IS 'When this was written.';

CREATE TABLE outboxd.gateway (
    name       text PRIMARY KEY,
    state      text NOT NULL CONSTRAINT gateway_state_known CHECK (state IN ('open', 'waiting', 'stopped')),
    reason     text,
    since      timestamptz NOT NULL DEFAULT now(),
    resume_requested_at timestamptz
) WITH (fillfactor = 50);

COMMENT ON TABLE outboxd.gateway IS 'The gateways as the leading daemon sees them.';
COMMENT ON COLUMN outboxd.gateway.name IS 'Name in the configuration.';
COMMENT ON COLUMN outboxd.gateway.state IS 'open: sending. waiting: backing off, tries again by itself. stopped: a person must act, then sms.resume(name).';
COMMENT ON COLUMN outboxd.gateway.reason IS 'Why it is not open.';
COMMENT ON COLUMN outboxd.gateway.since IS 'Since when it is in this state.';
COMMENT ON COLUMN outboxd.gateway.resume_requested_at IS 'When a person last asked to go on; the daemon clears it.';

CREATE TABLE outboxd.alarm (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    code       text NOT NULL,
    subject    text NOT NULL DEFAULT '',
    text       text NOT NULL,
    opened_at  timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    cleared_at timestamptz
);

CREATE UNIQUE INDEX alarm_open ON outboxd.alarm (code, subject) WHERE cleared_at IS NULL;

COMMENT ON TABLE outboxd.alarm IS 'What a person must see. Open while cleared_at is NULL.';
COMMENT ON COLUMN outboxd.alarm.id IS 'Number of the alarm.';
COMMENT ON COLUMN outboxd.alarm.code IS 'Stable identifier, for example gateway_stopped.';
COMMENT ON COLUMN outboxd.alarm.subject IS 'What it is about, for example the name of a gateway.';
COMMENT ON COLUMN outboxd.alarm.text IS 'What happened and what to do.';
COMMENT ON COLUMN outboxd.alarm.opened_at IS 'When it was raised.';
COMMENT ON COLUMN outboxd.alarm.seen_at IS 'When its cause was last seen.';
COMMENT ON COLUMN outboxd.alarm.cleared_at IS 'When its cause went away.';

-- The register that tells the doorbell whether anybody needs to be woken: microseconds of the database's clock,
-- positive while the daemon is awake until then, negative while it sleeps until then. A sequence, because setval
-- is not transactional and leaves no dead rows. Not an unlogged one, though it is worthless after a crash anyway: on a
-- replica that is promoted PostgreSQL leaves that without a page, and nothing could be written into it for ever.
CREATE SEQUENCE outboxd.register MINVALUE -9223372036854775807 START WITH 1;

COMMENT ON SEQUENCE outboxd.register IS 'Is the daemon awake (positive) or asleep (negative), and until when: microseconds since 1970. Past that time: neither.';

GRANT SELECT, UPDATE ON outboxd.leader TO outboxd_daemon;
GRANT SELECT, INSERT, UPDATE, DELETE ON outboxd.daemon, outboxd.wave, outboxd.attempt, outboxd.gateway, outboxd.alarm TO outboxd_daemon;
GRANT SELECT, UPDATE ON SEQUENCE outboxd.register TO outboxd_daemon;
GRANT SELECT ON outboxd.leader, outboxd.daemon, outboxd.wave, outboxd.attempt, outboxd.gateway, outboxd.alarm TO outboxd_operator;
