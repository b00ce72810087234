//! The database's part of `outboxd check`: connection, server, rights, schema, triggers, indexes, hold, templates.

use std::collections::BTreeMap;

use crate::cli::LEADER_SILENCE;
use crate::cli::check::progress::{Line, Progress};
use crate::cli::check::{Finding, Outcome, horizon, reach, replies, ways};
use crate::cli::counted;
use crate::clock;
use crate::compose::Templates;
use crate::config::{Config, Queue, Wake};
use crate::engine::failover::{self, Judgement};
use crate::store::inspect::{MissingGrant, Server, Trigger, TriggerPart};
use crate::store::migrate::SchemaState;
use crate::store::status::{GatewayStatus, StatusReport};
use crate::store::{Store, StoreError};

/// Older servers cannot throw out a silent leader (`idle_session_timeout`).
const OLDEST_MAJOR: i32 = 14;

pub(super) struct Seen {
    pub(super) findings: Vec<Finding>,
    /// A daemon is alive on this very host.
    pub(super) daemon_here: bool,
    /// What the daemon has last written of the gateways.
    pub(super) gateways: Vec<GatewayStatus>,
}

/// How many answers may be waited for in all: a server that takes its whole time limit for each would keep people waiting
/// for minutes.
const PATIENCE: u32 = 6;

pub(super) async fn check(config: &Config, progress: &Progress) -> Seen {
    let mut seen = Seen { findings: Vec::new(), daemon_here: false, gateways: Vec::new() };
    let line = progress.line("database");
    let limit = config.database.timeout * PATIENCE;
    if tokio::time::timeout(limit, walk(config, &line, &mut seen)).await.is_err() {
        let detail = format!("not done within {}", humantime::format_duration(limit));
        let advice = "the server answers, but far too slowly: look at its load and its log";
        seen.findings.push(Finding::unreachable("database", detail, advice));
    }
    seen
}

async fn walk(config: &Config, line: &Line, seen: &mut Seen) {
    let (hops, arrived) = reach::check("database", &config.database, line).await;
    seen.findings.extend(hops);
    if !arrived {
        return;
    }
    line.say("logging in");
    let connected = async {
        let store = Store::open(&config.database)?;
        // The connection is made before the clocks are compared.
        store.server().await?;
        let before = clock::wall();
        let server = store.server().await?;
        Ok::<_, StoreError>((store, server, before, clock::wall()))
    };
    let (store, server, before, after) = match connected.await {
        Ok(connected) => connected,
        Err(error) => {
            seen.findings.push(unreachable(config, &error));
            return;
        }
    };
    seen.findings.push(connection(config, &server));
    seen.findings.push(horizon::clock(&server, before, after));
    line.say("looking around");
    let mut direct_arrived = true;
    if let Some(direct) = &config.database.direct {
        let (hops, arrived) = reach::check("direct_url", direct, line).await;
        seen.findings.extend(hops);
        direct_arrived = arrived;
        line.say("looking around");
    }
    if direct_arrived {
        seen.findings.extend(ways::check(config, &store).await);
    }
    let state = store.schema_state().await;
    let usable = matches!(state, Ok(SchemaState::Current | SchemaState::Newer(_) | SchemaState::Altered(_)));
    let missing = matches!(state, Ok(SchemaState::Missing));
    let at = seen.findings.len();
    seen.findings.push(schema(&server, state));
    if missing {
        return;
    }
    let grants = async {
        let missing = store.missing_grants().await?;
        // What it may not enter it cannot look into.
        let sees_rows = !missing.is_empty() || store.doorbell().await?.sees_rows;
        Ok((missing, sees_rows))
    };
    let grants = match grants.await {
        Ok((missing, sees_rows)) => grants_of(&server, &missing, sees_rows),
        Err(error) => unexpected("grants", &error),
    };
    let granted = grants.outcome != Outcome::Failed;
    seen.findings.push(grants);
    if !usable || !granted {
        // What follows would only repeat it.
        return;
    }
    if let Some(differs) = shape(&store).await {
        seen.findings[at] = differs;
    }
    seen.findings.extend(triggers(config, &server, &store).await);
    seen.findings.push(indexes(&store).await);
    seen.findings.push(horizon::check(&store).await);
    seen.findings.push(held(&store).await);
    seen.findings.extend(templates(config, &store).await);
    if let Ok(status) = store.status().await {
        seen.daemon_here = daemon_here(&status);
        seen.gateways = status.gateways;
    }
}

fn unreachable(config: &Config, error: &StoreError) -> Finding {
    if let StoreError::WrongWay { what, advice } = error {
        return Finding::wrong("database", format!("{}: {what}", config.database.shown), *advice);
    }
    let reason = error.to_string();
    let advice = if reason.contains("[28") {
        "user, password or pg_hba.conf do not fit; compare [database] with what the server's administrator has set up"
    } else if reason.contains("[3D000]") {
        "create the database, or correct dbname in [database] url"
    } else if reason.contains("certificate") || reason.contains("TLS") {
        "sslmode, sslrootcert, sslcert and sslkey in [database] url must fit what the server shows and asks for"
    } else {
        "is PostgreSQL running there, and do the firewalls on the way let this host connect to its port?"
    };
    Finding::unreachable("database", format!("{}: {reason}", config.database.shown), advice)
}

/// A statement that should not fail.
pub(super) fn unexpected(name: &str, error: &StoreError) -> Finding {
    match error {
        StoreError::Unavailable(_) | StoreError::InDoubt { .. } | StoreError::Elsewhere { .. } => {
            Finding::unreachable(
                name,
                error.to_string(),
                "the connection does not hold; look at the server's log",
            )
        }
        StoreError::WrongWay { what, advice } => Finding::wrong(name, what, *advice),
        StoreError::Locked { .. }
        | StoreError::Unable { .. }
        | StoreError::Refused { .. }
        | StoreError::Answer { .. } => {
            Finding::wrong(name, error.to_string(), "look at the server's log, and at the lines above")
        }
    }
}

fn connection(config: &Config, server: &Server) -> Finding {
    let tls = server.tls.as_deref().unwrap_or("no TLS");
    let detail =
        format!("{}: PostgreSQL {}, as {}, {tls}", config.database.shown, server.version, server.user);
    match connection_faults(server) {
        Some(advice) => Finding::wrong("database", detail, advice),
        None => Finding::ok("database", detail),
    }
}

/// What to do about a server that cannot be used.
fn connection_faults(server: &Server) -> Option<String> {
    if server.version_num / 10_000 < OLDEST_MAJOR {
        return Some(format!("PostgreSQL {OLDEST_MAJOR} or newer is needed"));
    }
    server.in_recovery.then(|| {
        "this is a replica: name the primary, or all hosts with target_session_attrs=read-write".to_owned()
    })
}

fn schema(server: &Server, state: Result<SchemaState, StoreError>) -> Finding {
    match state {
        Ok(SchemaState::Current) => Finding::ok("schema", "up to date"),
        Ok(SchemaState::Missing) => Finding::wrong(
            "schema",
            format!("outboxd's tables are not in database {}", server.database),
            "run `outboxd migrate` as the role that is to own them",
        ),
        Ok(SchemaState::Behind(names)) => Finding::wrong(
            "schema",
            format!("older than this program, without {}", names.join(", ")),
            "run `outboxd migrate` as the role that owns it",
        ),
        Ok(SchemaState::Newer(version)) => Finding::wrong(
            "schema",
            format!("newer than this program: it has migration {version}"),
            "install the outboxd that migrated it, or a newer one",
        ),
        Ok(SchemaState::Altered(version)) => Finding::wrong(
            "schema",
            format!("migration {version} is not the one that this program knows"),
            "it was made by another build; use that one, or restore the database from before it",
        ),
        Err(StoreError::Refused { .. }) => {
            Finding::wrong("schema", format!("{} may not look at it", server.user), grant_daemon_role(server))
        }
        Err(error) => unexpected("schema", &error),
    }
}

/// How the schema differs from what its migrations made.
async fn shape(store: &Store) -> Option<Finding> {
    let looked = async {
        Ok((store.unusable_statements().await?, store.retyped_columns().await?, store.wrong_arrows().await))
    };
    let (unusable, retyped, arrows) = match looked.await {
        Ok(looked) => looked,
        Err(error) => return Some(unexpected("schema", &error)),
    };
    // One column that is missing is missed by many statements.
    let mut reasons: Vec<&str> = unusable.iter().map(|unusable| unusable.reason.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    let detail = if let Some(first) = unusable.first() {
        let (count, reasons) = (counted(unusable.len(), "statement"), reasons.join("; "));
        format!("the server would refuse {count}, {} for one: {reasons}", first.statement)
    } else if !retyped.is_empty() {
        let all =
            retyped.iter().map(|one| format!("{} is {} instead of {}", one.column, one.present, one.wanted));
        all.collect::<Vec<_>>().join("; ")
    } else {
        match arrows {
            Ok(wrong) => {
                let (from, to) = wrong.first()?;
                format!("function outboxd.may_become is not outboxd's own: it is wrong about {from} to {to}")
            }
            Err(error) => return Some(unexpected("schema", &error)),
        }
    };
    let advice = "somebody has changed it by hand: put it back as `outboxd migrate --print` shows it";
    Some(Finding::wrong("schema", detail, advice))
}

fn grant_daemon_role(server: &Server) -> String {
    format!("as a superuser: GRANT outboxd_daemon TO \"{}\";", server.user.replace('"', "\"\""))
}

fn grants_of(server: &Server, missing: &[MissingGrant], sees_rows: bool) -> Finding {
    let role = server.role;
    if role.needs_daemon_role && !role.has_daemon_role {
        let detail = format!("{} is not granted outboxd_daemon, and would see no messages", server.user);
        return Finding::wrong("grants", detail, grant_daemon_role(server));
    }
    if !missing.is_empty() {
        let mut by_object: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for grant in missing {
            by_object.entry(&grant.object).or_default().push(&grant.privilege);
        }
        let (mut listed, mut commands) = (Vec::new(), Vec::new());
        for (object, privileges) in by_object {
            let privileges = privileges.join(", ");
            listed.push(format!("{} lacks {privileges} on {object}", server.user));
            let object = match (privileges.as_str(), object) {
                ("EXECUTE", function) => format!("FUNCTION {}", function.trim_end_matches("()")),
                (_, "outboxd.register") => format!("SEQUENCE {object}"),
                _ => object.to_owned(),
            };
            commands.push(format!("GRANT {privileges} ON {object} TO outboxd_daemon;"));
        }
        return Finding::wrong("grants", listed.join("; "), format!("as the owner: {}", commands.join(" ")));
    }
    if !sees_rows {
        return Finding::wrong(
            "grants",
            format!(
                "{} sees no messages: row-level security of sms.outbox has no policy for it",
                server.user
            ),
            "as the owner: CREATE POLICY outbox_daemon ON sms.outbox TO outboxd_daemon USING (true) WITH CHECK (true);",
        );
    }
    if role.superuser || role.owns_outbox {
        let what = if role.superuser { "is a superuser" } else { "owns the tables" };
        return Finding::warning(
            "grants",
            format!("{} {what}, more than the daemon needs", server.user),
            "use a login role that is granted outboxd_daemon and nothing else",
        );
    }
    Finding::ok("grants", format!("{} has what the daemon needs", server.user))
}

async fn triggers(config: &Config, server: &Server, store: &Store) -> Vec<Finding> {
    let triggers = match store.triggers().await {
        Ok(triggers) => triggers,
        Err(error) => return vec![unexpected("doorbell", &error)],
    };
    let of = |part| triggers.iter().filter(move |trigger| trigger.part == part);
    let silent = |part| -> Vec<&Trigger> { of(part).filter(|trigger| !trigger.fires).collect() };
    let mut findings = vec![if config.database.sessions().is_some() {
        doorbell(&config.queue, server, &silent(TriggerPart::Doorbell))
    } else {
        let poll = humantime::format_duration(config.queue.poll_interval);
        let detail = format!("not used: nothing rings through the pooler; the table is polled every {poll}");
        Finding::ok("doorbell", detail)
    }];
    let sound = silent(TriggerPart::Sound);
    if !sound.is_empty() {
        findings.push(Finding::wrong(
            "rows",
            format!(
                "trigger {} is disabled or missing: whether a row waits (column queued) does not follow from its status \
                 any more, and rows that cannot be sent are taken",
                names(&sound)
            ),
            enable(&sound),
        ));
    }
    for Trigger { name, .. } in of(TriggerPart::Later) {
        findings.push(Finding::warning(
            "rows",
            format!(
                "trigger {name} runs after the one that keeps rows sound: what it changes is not looked at, and a row may \
                 be neither sent nor refused"
            ),
            format!("as the owner: ALTER TRIGGER {name} ON sms.outbox RENAME TO a_{name};"),
        ));
    }
    findings
}

fn doorbell(queue: &Queue, server: &Server, silent: &[&Trigger]) -> Finding {
    let wake = queue.wake;
    let poll = humantime::format_duration(queue.poll_interval);
    if wake == Wake::Poll {
        return Finding::ok("doorbell", format!("not used: the table is polled every {poll}, as configured"));
    }
    if !silent.is_empty() {
        let detail = format!(
            "trigger {} is disabled or missing: new messages wait for the poll, up to {poll}",
            names(silent)
        );
        return match wake {
            Wake::Notify => Finding::wrong("doorbell", detail, enable(silent)),
            Wake::Auto | Wake::Poll => Finding::warning("doorbell", detail, enable(silent)),
        };
    }
    if server.max_prepared_transactions > 0 {
        let detail = format!("max_prepared_transactions is {}", server.max_prepared_transactions);
        return match wake {
            Wake::Notify => Finding::warning(
                "doorbell",
                format!("{detail}: a transaction that wakes the daemon cannot be prepared"),
                "set wake = \"poll\" in [queue] if an application uses PREPARE TRANSACTION",
            ),
            Wake::Auto | Wake::Poll => {
                Finding::ok("doorbell", format!("{detail}, so the table is polled every {poll} instead"))
            }
        };
    }
    Finding::ok("doorbell", "triggers are enabled")
}

fn names(triggers: &[&Trigger]) -> String {
    triggers.iter().map(|trigger| trigger.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn enable(triggers: &[&Trigger]) -> String {
    let (disabled, missing): (Vec<&Trigger>, Vec<&Trigger>) =
        triggers.iter().partition(|trigger| trigger.exists);
    let mut advice: Vec<String> = disabled
        .iter()
        .map(|Trigger { name, part, .. }| {
            // As the schema has it: also for what comes by logical replication.
            let always = if *part == TriggerPart::Sound { "ALWAYS " } else { "" };
            format!("ALTER TABLE sms.outbox ENABLE {always}TRIGGER {name};")
        })
        .collect();
    if !missing.is_empty() {
        advice.push(format!("create {} as `outboxd migrate --print` shows", names(&missing)));
    }
    format!("as the owner: {}", advice.join(" "))
}

async fn indexes(store: &Store) -> Finding {
    match store.missing_indexes().await {
        Ok(missing) if missing.is_empty() => Finding::ok("indexes", "complete"),
        Ok(missing) => Finding::wrong(
            "indexes",
            format!("missing or invalid: {}", missing.join(", ")),
            "create them again as `outboxd migrate --print` shows; without them every look reads the whole table",
        ),
        Err(error) => unexpected("indexes", &error),
    }
}

async fn held(store: &Store) -> Finding {
    let standing = match store.standing().await {
        Ok(standing) => standing,
        Err(error) => return unexpected("hold", &error),
    };
    let witnesses = match store.witnesses().await {
        Ok(witnesses) => witnesses,
        Err(error) => return unexpected("hold", &error),
    };
    match failover::judge(&standing, &witnesses) {
        Judgement::Certain => {}
        Judgement::Changed { reason } => {
            return Finding::wrong("hold", reason, "never adopt a copy beside the database that still sends");
        }
        Judgement::Uncertain { silent } => {
            return Finding::warning(
                "hold",
                format!(
                    "the database failed over, and there is no word yet of what was sent before from {silent}"
                ),
                "start the daemon; what was queued then is set aside if nobody can tell",
            );
        }
    }
    if standing.uncertain.is_some() {
        return Finding::warning(
            "hold",
            "messages that may have been sent before a failover are set aside",
            "`outboxd status` says what to do",
        );
    }
    if !standing.held {
        return Finding::ok("hold", "nothing is held");
    }
    let reason = standing.held_reason.unwrap_or_default();
    if standing.held_code.as_deref() == Some("database_changed") {
        Finding::wrong("hold", reason, "check the queue, then run `outboxd adopt`")
    } else {
        Finding::warning("hold", format!("nothing is sent: {reason}"), "`outboxd resume` goes on")
    }
}

async fn templates(config: &Config, store: &Store) -> Vec<Finding> {
    let rows = match store.templates().await {
        Ok(rows) => rows,
        Err(error) => return vec![unexpected("templates", &error)],
    };
    let count = rows.len();
    let templates = Templates::new(rows);
    let mut findings = vec![wording(count, &templates)];
    findings.extend(replies::check(config, &templates));
    findings
}

fn wording(count: usize, templates: &Templates) -> Finding {
    let errors: Vec<String> = templates
        .errors()
        .map(|(name, language, error)| {
            let language = if language.is_empty() { String::new() } else { format!(" ({language})") };
            format!("{name}{language}: {error}")
        })
        .collect();
    if errors.is_empty() {
        return Finding::ok("templates", format!("{count} in sms.template"));
    }
    Finding::warning(
        "templates",
        errors.join("; "),
        "correct body in sms.template; until then the messages that name it fail",
    )
}

fn daemon_here(status: &StatusReport) -> bool {
    let uname = rustix::system::uname();
    let here = uname.nodename().to_string_lossy();
    status
        .daemons
        .iter()
        .any(|daemon| daemon.host == here && daemon.seen_seconds_ago < LEADER_SILENCE.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{connection_faults, doorbell};
    use crate::cli::check::Outcome;
    use crate::config::{AfterFailover, Queue, Wake};
    use crate::store::inspect::{RoleStanding, Server};

    fn server(version_num: i32, in_recovery: bool, max_prepared_transactions: i32) -> Server {
        Server {
            version_num,
            version: "test".to_owned(),
            user: "daemon".to_owned(),
            database: "outbox".to_owned(),
            in_recovery,
            tls: None,
            max_prepared_transactions,
            role: RoleStanding {
                superuser: false,
                owns_outbox: false,
                needs_daemon_role: true,
                has_daemon_role: true,
            },
            clock: 0.0,
        }
    }

    fn queue(wake: Wake) -> Queue {
        Queue {
            wake,
            poll_interval: Duration::from_secs(5),
            lease: Duration::from_secs(5),
            lookahead: 10,
            stale_after: None,
            stale_after_urgent: None,
            shutdown_grace: Duration::ZERO,
            after_failover: AfterFailover::Hold,
        }
    }

    #[test]
    fn with_two_phase_commit_the_daemon_polls_unless_told_to_ring() {
        let found = doorbell(&queue(Wake::Auto), &server(150_000, false, 10), &[]);
        assert_eq!(found.outcome, Outcome::Ok);
        assert!(found.detail.contains("polled every 5s"), "{found:?}");
        let found = doorbell(&queue(Wake::Notify), &server(150_000, false, 10), &[]);
        assert_eq!(found.outcome, Outcome::Warning);
    }

    #[test]
    fn an_old_server_and_a_replica_are_refused() {
        assert!(connection_faults(&server(140_000, false, 0)).is_none());
        assert!(connection_faults(&server(130_014, false, 0)).is_some_and(|advice| advice.contains("14")));
        assert!(connection_faults(&server(150_000, true, 0)).is_some_and(|a| a.contains("replica")));
    }
}
