-- outboxd: migration 0005
--
-- Why: what people write back, and who wants no more messages. Applications read both with SQL, as they read the outbox.
-- Locks: new objects; sms.template and outboxd.gateway for a moment, to add columns that are filled without rewriting.

CREATE TABLE sms.inbox (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at  timestamptz NOT NULL DEFAULT now(),
    app          text,
    sender       text NOT NULL,
    recipient    text NOT NULL,
    body         text NOT NULL,
    keyword      text,
    network      text,
    answers      bigint,
    gateway      text,
    gateway_ref  text,
    gateway_time timestamptz,
    effect       text CONSTRAINT inbox_effect_known CHECK (effect IN ('opt_out', 'opt_in')),
    handled_at   timestamptz,
    fingerprint  uuid
);

-- What the gateway repeats is recognised by this. NULL, where nothing tells a repetition, may stand in many rows.
CREATE UNIQUE INDEX inbox_fingerprint ON sms.inbox (fingerprint);
CREATE INDEX inbox_unhandled ON sms.inbox (app, id) WHERE handled_at IS NULL;
CREATE INDEX inbox_answers ON sms.inbox (answers) WHERE answers IS NOT NULL;

COMMENT ON TABLE sms.inbox IS 'One row for each message from a handset. LISTEN sms_inbox: the payload is the id of a new row.';
COMMENT ON COLUMN sms.inbox.id IS 'Number of the row.';
COMMENT ON COLUMN sms.inbox.received_at IS 'When outboxd took it.';
COMMENT ON COLUMN sms.inbox.app IS 'Database user whose message it answers, or to whom the configuration gives it. Applications see only their own rows; NULL: seen by outboxd_operator alone.';
COMMENT ON COLUMN sms.inbox.sender IS 'Who wrote: international digits, for example 353871234567; as the gateway gave it where it is no such number.';
COMMENT ON COLUMN sms.inbox.recipient IS 'The number that it was sent to, for example a short code.';
COMMENT ON COLUMN sms.inbox.body IS 'The text.';
COMMENT ON COLUMN sms.inbox.keyword IS 'Its first word, in capitals.';
COMMENT ON COLUMN sms.inbox.network IS 'Network of the sender as country/network, for example 272/1, if the gateway says it.';
COMMENT ON COLUMN sms.inbox.answers IS 'sms.outbox.id of the message that it answers, if the gateway could tell.';
COMMENT ON COLUMN sms.inbox.gateway IS 'Gateway that the answered message went to.';
COMMENT ON COLUMN sms.inbox.gateway_ref IS 'The NotifyId that came with it.';
COMMENT ON COLUMN sms.inbox.gateway_time IS 'When the gateway got it, by the gateway''s clock, read as UTC.';
COMMENT ON COLUMN sms.inbox.effect IS 'opt_out: the sender gets no more messages, see sms.opt_out. opt_in: gets them again.';
COMMENT ON COLUMN sms.inbox.handled_at IS 'For the application: set it when the row is dealt with.';
COMMENT ON COLUMN sms.inbox.fingerprint IS 'Made from what came, so that a repetition is recognised.';

CREATE TABLE sms.opt_out (
    msisdn   text COLLATE "C" NOT NULL CONSTRAINT opt_out_is_a_number CHECK (msisdn ~ '^[1-9][0-9]{6,14}$'),
    app      text NOT NULL DEFAULT '',
    since    timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    source   text NOT NULL
        CONSTRAINT opt_out_source_known CHECK (source IN ('reply', 'application', 'operator', 'import')),
    keyword  text,
    reason   text,
    PRIMARY KEY (msisdn, app)
);

COMMENT ON TABLE sms.opt_out IS 'Who wants no messages. Each wave is compared with it at the last moment. Written by replies (STOP), sms.opt_out(), sms.opt_in() and outboxd opt-out.';
COMMENT ON COLUMN sms.opt_out.msisdn IS 'International digits, for example 353871234567.';
COMMENT ON COLUMN sms.opt_out.app IS 'Whose messages are not wanted; empty: nobody''s.';
COMMENT ON COLUMN sms.opt_out.since IS 'Since when.';
COMMENT ON COLUMN sms.opt_out.ended_at IS 'Opted in again at this time. NULL: the opt-out stands.';
COMMENT ON COLUMN sms.opt_out.source IS 'Where the last change came from: reply, application, operator, import.';
COMMENT ON COLUMN sms.opt_out.keyword IS 'What the person wrote, if it was a reply.';
COMMENT ON COLUMN sms.opt_out.reason IS 'Remark of whoever entered it.';

ALTER TABLE sms.template ADD COLUMN transactional boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN sms.template.transactional IS 'True: also sent to people who opted out, for example a code that they have just asked for.';

ALTER TABLE outboxd.gateway ADD COLUMN stop_requested text;
COMMENT ON COLUMN outboxd.gateway.stop_requested IS 'Why the leading daemon is to stop it: a processing result said so. The daemon clears it.';

-- Which messages are without a receipt for too long. No index holds what is accepted, or a receipt could not be written
-- in place; but rows are sent in about the order in which they stand, so a summary of each block's times will do. Neither
-- of these two changes when a message that is not marked gets its receipt.
CREATE INDEX outbox_sent ON sms.outbox USING brin (sent_at) WITH (pages_per_range = 128, autosummarize = on)
    -- No query asks for the others, and an INSERT need not look into it.
    WHERE sent_at IS NOT NULL;
CREATE INDEX outbox_overdue ON sms.outbox (id) WHERE error_code = 'receipt_overdue';

CREATE TABLE outboxd.receipt_watch (
    one          boolean PRIMARY KEY DEFAULT true CONSTRAINT receipt_watch_is_one_row CHECK (one),
    looked_until timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO outboxd.receipt_watch DEFAULT VALUES;

COMMENT ON TABLE outboxd.receipt_watch IS 'One row: up to which time of sending it was looked whether receipts have come.';
COMMENT ON COLUMN outboxd.receipt_watch.one IS 'Always true: keeps the table to one row.';
COMMENT ON COLUMN outboxd.receipt_watch.looked_until IS 'Messages that were sent after this are looked at next.';

-- An hour of sending in a step, until enough was found for one transaction or a quarter of a second is over: what was looked
-- through is written down, so that no statement lasts for many steps. None that is more than a week overdue. Each
-- look reads all that has no summary yet, up to a fifth of the table, and is not worth it for a small part of the age.
CREATE FUNCTION outboxd.mark_overdue(age double precision) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET enable_bitmapscan = on SET enable_indexscan = off SET enable_seqscan = off
AS $$
DECLARE
    due timestamptz := now() - make_interval(secs => age);
    since timestamptz := greatest(
        (SELECT w.looked_until FROM outboxd.receipt_watch AS w FOR UPDATE), due - interval '7 days');
    enough timestamptz := clock_timestamp() + interval '250 milliseconds';
    step_end timestamptz;
    found_now bigint;
    marked bigint := 0;
BEGIN
    IF due - since < least(make_interval(secs => age / 50), interval '1 hour') THEN
        RETURN 0;
    END IF;
    WHILE since < due AND marked < 10000 AND clock_timestamp() < enough LOOP
        step_end := least(due, since + interval '1 hour');
        UPDATE sms.outbox AS o
        SET error_code = 'receipt_overdue',
            error = 'the gateway took it, and no receipt has come; it may have been delivered'
        WHERE o.sent_at > since AND o.sent_at <= step_end AND o.status = 'accepted' AND o.error_code IS NULL;
        GET DIAGNOSTICS found_now = ROW_COUNT;
        marked := marked + found_now;
        since := step_end;
    END LOOP;
    UPDATE outboxd.receipt_watch SET looked_until = greatest(looked_until, since);
    RETURN marked;
END
$$;

COMMENT ON FUNCTION outboxd.mark_overdue(double precision) IS 'Says in the rows that were accepted so many seconds ago that their receipts are overdue. Returns how many.';

-- What a refusal without a reference may be about. The ages are seconds before now.
CREATE FUNCTION outboxd.suspects(gateways text[], oldest double precision, newest double precision,
    heard_for double precision, listener text) RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    SET enable_bitmapscan = on SET enable_indexscan = off SET enable_seqscan = off
AS $$
BEGIN
    RETURN QUERY
    SELECT CASE WHEN o.sent_at > now() - make_interval(secs => heard_for) THEN o.gateway_ref END
    FROM sms.outbox AS o
    WHERE o.sent_at > now() - make_interval(secs => oldest) AND o.sent_at <= now() - make_interval(secs => newest)
        AND o.status IN ('accepted', 'unknown') AND o.sent_via = ANY (gateways)
    LIMIT 100000;
    -- Where any of these is, it cannot be told: an answer that is still to come, an attempt that was given up, another
    -- daemon that may have been told of messages which this one was not told of.
    RETURN QUERY
    SELECT NULL::text FROM outboxd.wave AS w
    CROSS JOIN LATERAL unnest(w.ids, w.attempts, w.rows_made) AS a(id, attempt, row_made)
    JOIN sms.outbox AS o ON o.id = a.id AND o.created_at = a.row_made
    WHERE w.gateway = ANY (gateways) AND w.created_at <= now() - make_interval(secs => newest)
        AND o.status IN ('queued', 'cancelled') AND o.attempts < a.attempt
    LIMIT 1;
    RETURN QUERY
    SELECT NULL::text FROM outboxd.attempt AS a
    WHERE a.at > now() - make_interval(secs => oldest) AND a.gateway = ANY (gateways)
    LIMIT 1;
    RETURN QUERY
    SELECT NULL::text FROM outboxd.daemon AS d
    WHERE d.instance <> listener AND d.seen_at > now() - make_interval(secs => oldest)
    LIMIT 1;
END
$$;

COMMENT ON FUNCTION outboxd.suspects(text[], double precision, double precision, double precision, text) IS 'References of what these gateways accepted in that time and what may have been refused afterwards. A NULL among them: there may be more.';

-- How national numbers are read, so that SQL reads them as the daemon does.
CREATE TABLE outboxd.number_plan (
    one     boolean PRIMARY KEY DEFAULT true CONSTRAINT number_plan_is_one_row CHECK (one),
    country text,
    trunk   text NOT NULL DEFAULT ''
);
INSERT INTO outboxd.number_plan DEFAULT VALUES;

COMMENT ON TABLE outboxd.number_plan IS 'One row: text.default_country and text.trunk_prefix of the daemon that started last.';
COMMENT ON COLUMN outboxd.number_plan.one IS 'Always true: keeps the table to one row.';
COMMENT ON COLUMN outboxd.number_plan.country IS 'Digits put before a national number.';
COMMENT ON COLUMN outboxd.number_plan.trunk IS 'Digits that open a national number and fall away.';

-- Stricter than the daemon where that keeps it short: what it takes, the daemon reads alike.
CREATE FUNCTION outboxd.msisdn(written text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    plan outboxd.number_plan%ROWTYPE;
    digits text := regexp_replace(written, '[ ()-]', '', 'g');
BEGIN
    SELECT p.* INTO plan FROM outboxd.number_plan AS p;
    IF digits ~ '^[+][0-9]+$' THEN
        digits := substr(digits, 2);
    ELSIF digits ~ '^00[0-9]+$' THEN
        digits := substr(digits, 3);
    ELSIF plan.country IS NOT NULL AND plan.trunk <> '' AND starts_with(digits, plan.trunk) THEN
        digits := plan.country || nullif(substr(digits, length(plan.trunk) + 1), '');
        -- One leading zero too many.
        IF starts_with(digits, plan.country || '0') THEN
            digits := NULL;
        END IF;
    ELSIF plan.country IS NOT NULL AND NOT starts_with(digits, plan.country) AND length(digits) < 11 THEN
        -- A national number that lost its zero would be somebody's number elsewhere.
        digits := NULL;
    END IF;
    -- +353 (0)87 … and +353 087 …: only the daemon knows all the ways in which people write that.
    IF coalesce(digits, '') !~ '^[1-9][0-9]{6,14}$' OR written ~ '[(] *0 *[)]'
        OR (starts_with(plan.trunk, '0') AND starts_with(digits, plan.country || plan.trunk)) THEN
        RAISE EXCEPTION 'this is not a phone number that can be read in one way only'
            USING HINT = 'Write it with + and its country code.', ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN digits;
END
$$;

COMMENT ON FUNCTION outboxd.msisdn(text) IS 'International digits of a number as people write it; an error if it could be read in two ways.';

-- Empty for operators and the daemon, whose opt-outs hold for all applications.
CREATE FUNCTION outboxd.opt_out_scope() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN pg_has_role(session_user, 'outboxd_operator', 'member')
            OR pg_has_role(session_user, 'outboxd_daemon', 'member') THEN ''
        ELSE session_user::text
    END
$$;

COMMENT ON FUNCTION outboxd.opt_out_scope() IS 'Whose messages an opt-out by the connected role is about: its own, or (empty) everybody''s.';

CREATE FUNCTION sms.opt_out(number text, reason text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    digits text := outboxd.msisdn(number);
    scope text := outboxd.opt_out_scope();
BEGIN
    INSERT INTO sms.opt_out AS x (msisdn, app, since, source, reason)
    VALUES (digits, scope, clock_timestamp(), CASE scope WHEN '' THEN 'operator' ELSE 'application' END, opt_out.reason)
    ON CONFLICT (msisdn, app) DO UPDATE
    SET since = excluded.since, ended_at = NULL, source = excluded.source, keyword = NULL, reason = excluded.reason
    WHERE x.ended_at IS NOT NULL;
    RETURN digits;
END
$$;

COMMENT ON FUNCTION sms.opt_out(text, text) IS 'This number gets no more messages: of the calling application, or, called by an operator, of any. Returns it as international digits.';

CREATE FUNCTION sms.is_opted_out(number text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM sms.opt_out AS x
        WHERE x.msisdn = outboxd.msisdn(number)
            AND x.app IN ('', session_user::text)
            AND x.ended_at IS NULL
    )
$$;

COMMENT ON FUNCTION sms.is_opted_out(text) IS 'Would a message of the calling application to this number be refused?';

CREATE FUNCTION sms.opt_in(number text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    digits text := outboxd.msisdn(number);
    scope text := outboxd.opt_out_scope();
BEGIN
    UPDATE sms.opt_out AS x
    SET ended_at = clock_timestamp(), source = CASE scope WHEN '' THEN 'operator' ELSE 'application' END
    WHERE x.msisdn = digits
        -- An application does not overrule what the person wrote, nor another application.
        AND (x.app = scope OR scope = '')
        AND x.ended_at IS NULL;
    RETURN NOT EXISTS (
        SELECT FROM sms.opt_out AS x
        WHERE x.msisdn = digits AND x.app IN ('', session_user::text) AND x.ended_at IS NULL
    );
END
$$;

COMMENT ON FUNCTION sms.opt_in(text) IS 'Ends the opt-out that sms.opt_out() of the same caller began; called by an operator, every one. False: the person still gets no messages, because of an opt-out of their own.';

-- Who was answered by a keyword, and when: two machines that answer each other must not go on for ever.
CREATE TABLE outboxd.auto_reply (
    sender  text COLLATE "C" NOT NULL,
    keyword text NOT NULL,
    at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sender, keyword)
);

CREATE INDEX auto_reply_at ON outboxd.auto_reply (at);

COMMENT ON TABLE outboxd.auto_reply IS 'When a number was last answered by itself, for each keyword. Forgotten after a month.';
COMMENT ON COLUMN outboxd.auto_reply.sender IS 'International digits.';
COMMENT ON COLUMN outboxd.auto_reply.keyword IS 'As in sms.inbox.keyword.';
COMMENT ON COLUMN outboxd.auto_reply.at IS 'When the answer was queued.';

-- SECURITY DEFINER, so that a daemon can answer a message that is in the inbox and do no more with these tables.
-- What is wrong with the answer (a trigger of the site, an id that an application has used) must not keep the message
-- out: it is told instead. What is wrong with the server is: then the message is to come again.
CREATE FUNCTION outboxd.auto_reply(message bigint, template text, pause double precision,
    OUT answer bigint, OUT problem text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    received sms.inbox%ROWTYPE;
BEGIN
    SELECT i.* INTO received FROM sms.inbox AS i WHERE i.id = message;
    -- Short codes and names are machines.
    IF received.sender !~ '^[1-9][0-9]{6,14}$' OR received.sender = received.recipient THEN
        RETURN;
    END IF;
    INSERT INTO outboxd.auto_reply AS r (sender, keyword) VALUES (received.sender, received.keyword)
    ON CONFLICT (sender, keyword) DO UPDATE SET at = excluded.at
    WHERE r.at <= excluded.at - make_interval(secs => pause);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- The number of the message keeps it to one answer, whatever is given it.
    INSERT INTO sms.outbox (app, recipient, template, language, params, client_ref)
    VALUES (
        coalesce(received.app, session_user), '+' || received.sender, auto_reply.template,
        (SELECT o.language FROM sms.outbox AS o WHERE o.id = received.answers),
        json_build_object(
            'keyword', received.keyword, 'sender', received.sender, 'recipient', received.recipient),
        'auto-reply:' || received.id
    )
    RETURNING id INTO answer;
    DELETE FROM outboxd.auto_reply AS r
    USING (
        SELECT o.sender, o.keyword FROM outboxd.auto_reply AS o
        WHERE o.at < now() - interval '31 days'
        ORDER BY o.at LIMIT 2
        FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE r.sender = old.sender AND r.keyword = old.keyword;
EXCEPTION WHEN OTHERS THEN
    -- Locked meanwhile, read-only, out of resources.
    IF SQLSTATE IN ('55P03', '25006') OR left(SQLSTATE, 2) IN ('40', '53', '58') THEN
        RAISE;
    END IF;
    answer := NULL;
    problem := format('%s [%s]', SQLERRM, SQLSTATE);
END
$$;

COMMENT ON FUNCTION outboxd.auto_reply(bigint, text, double precision) IS 'Queues the answer to a message from a handset, from a template, unless its sender was answered within so many seconds. Returns its id, or why none could be queued.';

CREATE FUNCTION sms.acknowledge() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    cleared bigint;
BEGIN
    UPDATE outboxd.alarm AS a SET cleared_at = now() WHERE a.code = 'request_refused' AND a.cleared_at IS NULL;
    GET DIAGNOSTICS cleared = ROW_COUNT;
    RETURN cleared;
END
$$;

COMMENT ON FUNCTION sms.acknowledge() IS 'A person has looked after what the gateway refused without naming it: clears the alarms request_refused. Returns how many. Other alarms clear when their cause has gone.';

CREATE FUNCTION outboxd.was_told(status text, shown_ref text, attempt_ref text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    -- Of what still waits nothing was said. Most rows do, so that is asked first.
    SELECT status <> 'queued'
        AND (status IN ('delivered', 'undelivered') OR (shown_ref = attempt_ref AND status IN ('accepted', 'failed')))
$$;

COMMENT ON FUNCTION outboxd.was_told(text, text, text) IS 'A callback was quicker than the recording of the answer: what it said stands.';

ALTER TABLE sms.inbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE sms.opt_out ENABLE ROW LEVEL SECURITY;

CREATE POLICY inbox_own_read ON sms.inbox FOR SELECT TO outboxd_app USING (app = session_user);
CREATE POLICY inbox_own_handle ON sms.inbox FOR UPDATE TO outboxd_app USING (app = session_user) WITH CHECK (app = session_user);
CREATE POLICY inbox_daemon ON sms.inbox TO outboxd_daemon USING (true) WITH CHECK (true);
CREATE POLICY inbox_operator ON sms.inbox TO outboxd_operator USING (true) WITH CHECK (true);
CREATE POLICY opt_out_own_read ON sms.opt_out FOR SELECT TO outboxd_app USING (app = session_user);
CREATE POLICY opt_out_daemon ON sms.opt_out TO outboxd_daemon USING (true) WITH CHECK (true);
CREATE POLICY opt_out_operator ON sms.opt_out FOR SELECT TO outboxd_operator USING (true);

GRANT SELECT, UPDATE (handled_at) ON sms.inbox TO outboxd_app;
GRANT SELECT, INSERT ON sms.inbox TO outboxd_daemon;
GRANT SELECT, UPDATE (app, handled_at) ON sms.inbox TO outboxd_operator;
GRANT SELECT ON sms.opt_out TO outboxd_app, outboxd_operator;
GRANT SELECT, INSERT, UPDATE ON sms.opt_out TO outboxd_daemon;
GRANT SELECT, UPDATE ON outboxd.number_plan, outboxd.receipt_watch TO outboxd_daemon;
REVOKE ALL ON FUNCTION sms.opt_out(text, text), sms.opt_in(text), sms.is_opted_out(text),
    outboxd.msisdn(text), outboxd.opt_out_scope(), outboxd.mark_overdue(double precision),
    outboxd.auto_reply(bigint, text, double precision), sms.acknowledge(),
    outboxd.suspects(text[], double precision, double precision, double precision, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sms.opt_out(text, text), sms.opt_in(text), sms.is_opted_out(text)
    TO outboxd_app, outboxd_operator, outboxd_daemon;
GRANT EXECUTE ON FUNCTION outboxd.mark_overdue(double precision), outboxd.auto_reply(bigint, text, double precision),
    outboxd.suspects(text[], double precision, double precision, double precision, text) TO outboxd_daemon;
GRANT EXECUTE ON FUNCTION sms.acknowledge() TO outboxd_operator, outboxd_daemon;

-- As in 0004, with one more column.
CREATE OR REPLACE VIEW sms.health AS
SELECT
    (SELECT count(*) FROM sms.outbox AS o WHERE o.queued AND o.send_after <= now()) AS due,
    (SELECT count(*) FROM sms.outbox AS o WHERE o.queued AND o.send_after > now()) AS scheduled,
    (SELECT count(*) FROM sms.outbox AS o WHERE o.held) AS held,
    (SELECT count(*) FROM sms.outbox AS o WHERE o.unresolved) AS unknown,
    greatest(extract(epoch FROM now())::double precision - extract(epoch FROM least(
        (SELECT o.send_after FROM sms.outbox AS o WHERE o.queued AND o.lane = 'urgent' ORDER BY o.send_after LIMIT 1),
        (SELECT o.send_after FROM sms.outbox AS o WHERE o.queued AND o.lane = 'normal' ORDER BY o.send_after LIMIT 1),
        (SELECT o.send_after FROM sms.outbox AS o WHERE o.queued AND o.lane = 'bulk' ORDER BY o.send_after LIMIT 1)
    ))::double precision, 0) AS oldest_due_seconds,
    l.held AS all_held,
    l.held_reason,
    l.epoch,
    d.host AS leader_host,
    d.version AS leader_version,
    extract(epoch FROM now() - d.seen_at)::double precision AS leader_seen_seconds_ago,
    (SELECT count(*) FROM outboxd.alarm AS a WHERE a.cleared_at IS NULL) AS open_alarms,
    (SELECT count(*) FROM sms.outbox AS o WHERE o.error_code = 'receipt_overdue') AS receipts_overdue,
    (SELECT count(*) FROM sms.outbox AS o WHERE o.held AND o.error_code = 'failover_uncertain') AS uncertain
FROM outboxd.leader AS l
LEFT JOIN outboxd.daemon AS d ON d.instance = l.daemon;

COMMENT ON COLUMN sms.health.uncertain IS 'Of those held: messages that may have been sent before the database failed over.';
COMMENT ON COLUMN sms.health.receipts_overdue IS 'Accepted messages whose receipt has not come in time.';
