-- outboxd: migration 0004
--
-- Why: what applications and operators do to messages that are already queued, and what they may see of the whole.
-- Locks: only new objects.

-- Applications touch their own messages; members of outboxd_operator and the daemon touch all.
CREATE FUNCTION outboxd.may_touch(owner text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT owner = session_user
        OR pg_has_role(session_user, 'outboxd_operator', 'member')
        OR pg_has_role(session_user, 'outboxd_daemon', 'member')
$$;

COMMENT ON FUNCTION outboxd.may_touch(text) IS 'May the connected role cancel or retry a message of this app?';

CREATE FUNCTION sms.cancel(message_id bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    result text;
BEGIN
    UPDATE sms.outbox AS o
    SET status = 'cancelled', held = false, final_at = now(), error_code = 'cancelled',
        error = format('cancelled by %s', session_user)
    WHERE o.id = message_id AND o.status = 'queued' AND outboxd.may_touch(o.app)
    RETURNING o.status INTO result;
    IF result IS NULL THEN
        SELECT o.status INTO result FROM sms.outbox AS o WHERE o.id = message_id AND outboxd.may_touch(o.app);
    END IF;
    RETURN result;
END
$$;

COMMENT ON FUNCTION sms.cancel(bigint) IS 'Cancels a queued message. Returns its status: cancelled, or what it already became; NULL if there is no such message of yours.';

CREATE FUNCTION sms.retry(message_id bigint, force boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before sms.outbox%ROWTYPE;
    -- Read once: another failover must not come between the question and the answer.
    uncertain_due timestamptz := (SELECT l.uncertain_due FROM outboxd.leader AS l);
BEGIN
    SELECT o.* INTO before FROM sms.outbox AS o
    WHERE o.id = message_id AND outboxd.may_touch(o.app)
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF before.status = 'unknown' AND NOT coalesce(force, false) THEN
        RAISE EXCEPTION 'message % may already have been accepted by the gateway', message_id
            USING HINT = 'Find out first. sms.retry(id, force => true) sends it again all the same, perhaps twice.',
                  ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF before.held AND before.error_code = 'failover_uncertain' THEN
        IF NOT coalesce(force, false) THEN
            RAISE EXCEPTION 'message % may have been sent before the database failed over', message_id
                USING HINT = 'Find out first. sms.retry(id, force => true) sends it all the same, perhaps twice.',
                      ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        IF uncertain_due = 'infinity' THEN
            RAISE EXCEPTION 'nobody has said yet that messages are to be sent from this database'
                USING HINT = 'Read what outboxd status says, then run outboxd adopt.',
                      ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
    END IF;
    IF before.status IN ('failed', 'undelivered', 'expired', 'unknown') OR before.held THEN
        IF before.status = 'unknown' THEN
            -- A late receipt for the attempt that is given up must still find its message.
            INSERT INTO outboxd.attempt (message_id, row_made, attempt, gateway, gateway_ref, verdict, note)
            VALUES (before.id, before.created_at, before.attempts, before.sent_via, before.gateway_ref, 'unknown',
                    format('sent again by force, asked by %s', session_user));
        END IF;
        UPDATE sms.outbox AS o
        SET status = 'queued', held = false, final_at = NULL, error_code = NULL, error = NULL,
            -- What a failover made uncertain is set aside if it is due before this, which may be in the future: the old
            -- primary's clock may have been ahead.
            send_after = CASE
                WHEN before.error_code = 'failover_uncertain'
                    THEN greatest(now(), uncertain_due + interval '1 microsecond')
                ELSE now()
            END,
            -- An expiry in the past would end it again at once.
            expires_at = CASE WHEN o.expires_at > now() THEN o.expires_at END
        WHERE o.id = message_id;
        RETURN 'queued';
    END IF;
    RETURN before.status;
END
$$;

COMMENT ON FUNCTION sms.retry(bigint, boolean) IS 'Queues a failed, undelivered, expired or held message again; an unknown one, or one that may have been sent before a failover, only with force. Returns its status; NULL if there is no such message of yours.';

CREATE FUNCTION sms.hold(reason text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Waits for a wave that is being committed; after this, none is.
    UPDATE outboxd.leader AS l
    SET held = true, held_code = coalesce(CASE WHEN l.held THEN l.held_code END, 'operator'),
        held_reason = coalesce(reason, 'held by sms.hold()'), held_by = session_user, held_at = now();
    PERFORM pg_notify('outboxd', 'control');
END
$$;

COMMENT ON FUNCTION sms.hold(text) IS 'Emergency stop: no further message is sent until sms.resume(). What is under way is not called back.';

CREATE FUNCTION sms.resume(gateway text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF gateway IS NULL THEN
        IF EXISTS (SELECT FROM outboxd.leader AS l WHERE l.held AND l.held_code = 'database_changed') THEN
            RAISE EXCEPTION 'this is not the database that messages were last sent from'
                USING HINT = 'Read what outboxd status says, then run outboxd adopt.',
                      ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        UPDATE outboxd.leader
        SET held = false, held_code = NULL, held_reason = NULL, held_by = NULL, held_at = NULL;
    ELSE
        UPDATE outboxd.gateway AS g SET resume_requested_at = now() WHERE g.name = resume.gateway;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no gateway is called %', gateway
                USING HINT = 'The names are in outboxd.gateway.', ERRCODE = 'undefined_object';
        END IF;
    END IF;
    PERFORM pg_notify('outboxd', 'control');
END
$$;

COMMENT ON FUNCTION sms.resume(text) IS 'Without a name: ends sms.hold(). With one: lets a stopped gateway try again.';

CREATE VIEW sms.health AS
SELECT
    (SELECT count(*) FROM sms.outbox AS o WHERE o.queued AND o.send_after <= now()) AS due,
    (SELECT count(*) FROM sms.outbox AS o WHERE o.queued AND o.send_after > now()) AS scheduled,
    (SELECT count(*) FROM sms.outbox AS o WHERE o.held) AS held,
    (SELECT count(*) FROM sms.outbox AS o WHERE o.unresolved) AS unknown,
    -- Each side by itself: an application may write '-infinity', which cannot be subtracted.
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
    (SELECT count(*) FROM outboxd.alarm AS a WHERE a.cleared_at IS NULL) AS open_alarms
FROM outboxd.leader AS l
LEFT JOIN outboxd.daemon AS d ON d.instance = l.daemon;

COMMENT ON VIEW sms.health IS 'One row for monitoring: what waits, how long, who sends, what is wrong.';
COMMENT ON COLUMN sms.health.due IS 'Messages that could be sent now.';
COMMENT ON COLUMN sms.health.scheduled IS 'Messages whose time has not come.';
COMMENT ON COLUMN sms.health.held IS 'Messages that wait for a person.';
COMMENT ON COLUMN sms.health.unknown IS 'Messages that may or may not have been accepted.';
COMMENT ON COLUMN sms.health.oldest_due_seconds IS 'How long the oldest due message has waited; 0: none.';
COMMENT ON COLUMN sms.health.all_held IS 'True: nothing is sent, see held_reason.';
COMMENT ON COLUMN sms.health.held_reason IS 'Why nothing is sent.';
COMMENT ON COLUMN sms.health.epoch IS 'Grows with every change of the leading daemon.';
COMMENT ON COLUMN sms.health.leader_host IS 'Host of the leading daemon.';
COMMENT ON COLUMN sms.health.leader_version IS 'Its version.';
COMMENT ON COLUMN sms.health.leader_seen_seconds_ago IS 'Seconds since its last heartbeat; more than 15: it is probably down.';
COMMENT ON COLUMN sms.health.open_alarms IS 'Alarms in outboxd.alarm that are not cleared.';

REVOKE ALL ON FUNCTION sms.cancel(bigint), sms.retry(bigint, boolean), sms.hold(text), sms.resume(text),
    outboxd.may_touch(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sms.cancel(bigint), sms.retry(bigint, boolean)
    TO outboxd_app, outboxd_operator, outboxd_daemon;
GRANT EXECUTE ON FUNCTION sms.hold(text), sms.resume(text) TO outboxd_operator, outboxd_daemon;
GRANT SELECT ON sms.health TO outboxd_operator, outboxd_daemon;
