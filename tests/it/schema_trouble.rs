//! The schema changes under a daemon that is at work: by somebody's mistake, and back again. Meanwhile the log and the
//! commands say what is wrong and what to do, and not a thousand times. Afterwards it goes on by itself, and the three
//! books agree.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::support::books::Committed;
use crate::support::cli::Cli;
use crate::support::daemon::Daemon;
use crate::support::postgres::connect;
use crate::support::site::{LIMIT, Lines, Site};

const EIGHT_AT_ONCE: Lines<'_> = Lines { queue: "", gateway: "concurrency = 8", more: "", receipts: false };
/// How long a broken schema is watched.
const WATCHED: Duration = Duration::from_millis(1500);
/// Most lines (other than DEBUG) in that time: what is wrong is said on change, for each statement that is refused.
const MOST_LINES: usize = 20;

/// A mistake, and what takes it back.
struct Mistake<'a> {
    made: &'a str,
    mended: &'a str,
    /// In the log.
    said: &'a str,
    /// The finding of `outboxd check` that fails, and what it says.
    check: (&'a str, &'a str),
    /// In `outboxd status`.
    status: &'a str,
}

/// An application that goes on inserting, and remembers what was committed: some inserts may be refused meanwhile. Then it
/// connects anew, for in an open session PL/pgSQL insists on the types of columns that it has seen.
struct Load {
    stop: Arc<AtomicBool>,
    inserting: JoinHandle<Vec<String>>,
}

impl Load {
    fn start(url: String) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let inserting = tokio::spawn(async move {
            let mut committed = Vec::new();
            let config = url.parse().unwrap();
            let mut client = connect(&config).await;
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            let sql = "INSERT INTO sms.outbox (recipient, body) VALUES ('+353871234567', $1)";
            for n in 0.. {
                pace.tick().await;
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let text = format!("text {n}");
                match client.execute(sql, &[&text]).await {
                    Ok(_) => committed.push(text),
                    Err(_) => client = connect(&config).await,
                }
            }
            committed
        });
        Load { stop, inserting }
    }

    async fn end(self) -> Committed {
        self.stop.store(true, Ordering::Relaxed);
        let mut committed = Committed::default();
        committed.add_all(self.inserting.await.unwrap());
        committed
    }
}

/// Lines that people see.
fn lines(daemon: &Daemon) -> usize {
    daemon.log().lines().filter(|line| !line.contains("DEBUG")).count()
}

/// The mistake is made while requests are under way, whose answers come while it stands.
async fn survives(hint: &str, mistake: Mistake<'_>) {
    let site = Site::new(hint).await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let load = Load::start(site.db.url());
    site.sim_reaches("accepted=20").await;
    site.freeze().await;
    site.sim_reaches("frozen=8").await;
    site.run(mistake.made).await;
    site.thaw().await;
    daemon.wait_log(LIMIT, mistake.said).await;
    let said = lines(&daemon);
    tokio::time::sleep(WATCHED).await;
    let more = lines(&daemon) - said;
    assert!(more <= MOST_LINES, "{more} lines in {WATCHED:?}: {}", daemon.log());

    let cli = Cli::new(&site.config(EIGHT_AT_ONCE));
    let check = cli.run(&["check", "--json"]).await.expect(78);
    let (name, words) = mistake.check;
    let all = check.json();
    let found = all.as_array().unwrap().iter().find(|finding| finding["name"] == name).unwrap();
    assert_eq!(found["outcome"], "failed", "{all:#}");
    let sentence = format!("{} -> {}", found["detail"].as_str().unwrap(), found["advice"].as_str().unwrap());
    assert!(sentence.contains(words), "{words} is not in {sentence}");
    let status = cli.run(&["status"]).await;
    assert_ne!(status.code, 0, "{status:#?}");
    assert!(format!("{}{}", status.stdout, status.stderr).contains(mistake.status), "{status:#?}");
    site.run(mistake.mended).await;
    let committed = load.end().await;
    site.until_all_sent(&committed).await;
    cli.run(&["check"]).await.expect(0);
    site.until_true(
        "no alarm stands",
        "SELECT NOT EXISTS (SELECT FROM outboxd.alarm WHERE cleared_at IS NULL)",
    )
    .await;
    let (last, _) = site.queue(1).await;
    site.until(last, "accepted").await;
}

#[tokio::test]
async fn a_column_that_reading_needs_is_dropped_and_put_back() {
    survives(
        "drop_sender",
        Mistake {
            // The trigger that rings when it is edited goes with it.
            made: "ALTER TABLE sms.outbox DROP COLUMN sender CASCADE",
            mended: "ALTER TABLE sms.outbox ADD COLUMN sender text; \
                     CREATE TRIGGER outbox_ring_update AFTER UPDATE OF recipient, body, template, language, params, \
                         sender, gateway, lane, send_after, expires_at ON sms.outbox FOR EACH STATEMENT \
                         EXECUTE FUNCTION outboxd.ring_if_asleep()",
            said: "column o.sender does not exist",
            check: ("schema", "column o.sender does not exist"),
            status: "column o.sender does not exist",
        },
    )
    .await;
}

#[tokio::test]
async fn a_column_that_recording_needs_is_dropped_and_put_back() {
    survives(
        "drop_segments",
        Mistake {
            made: "ALTER TABLE sms.outbox DROP COLUMN segments",
            mended: "ALTER TABLE sms.outbox ADD COLUMN segments smallint",
            said: "PostgreSQL refuses to take a result",
            check: ("schema", "segments"),
            status: "results_refused",
        },
    )
    .await;
}

#[tokio::test]
async fn a_column_gets_another_type_and_its_own_again() {
    survives(
        "type_changed",
        Mistake {
            made: "ALTER TABLE sms.outbox ALTER COLUMN segments TYPE text",
            mended: "ALTER TABLE sms.outbox ALTER COLUMN segments TYPE smallint USING segments::smallint",
            said: "PostgreSQL refuses to take a result",
            check: ("schema", "cannot be matched"),
            status: "results_refused",
        },
    )
    .await;
}

/// Connections that are made meanwhile prepare their statements for the wrong type, and would keep them.
#[tokio::test]
async fn a_column_that_is_read_gets_another_type_and_its_own_again() {
    survives(
        "read_type_changed",
        Mistake {
            made: "ALTER TABLE sms.outbox ALTER COLUMN attempts TYPE bigint; \
                   SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND usename LIKE 'daemon%'",
            mended: "ALTER TABLE sms.outbox ALTER COLUMN attempts TYPE integer",
            said: "unexpected answer to native/discover",
            check: ("schema", "sms.outbox.attempts is bigint instead of integer"),
            status: "unexpected answer to native/discover",
        },
    )
    .await;
}

#[tokio::test]
async fn the_daemon_may_read_no_more_and_then_may_again() {
    survives(
        "revoke_select",
        Mistake {
            made: "REVOKE SELECT ON sms.outbox FROM outboxd_daemon",
            mended: "GRANT SELECT ON sms.outbox TO outboxd_daemon",
            said: "permission denied for table outbox",
            check: ("grants", "GRANT SELECT ON sms.outbox TO outboxd_daemon;"),
            status: "permission denied",
        },
    )
    .await;
}

#[tokio::test]
async fn the_daemon_may_write_no_more_and_then_may_again() {
    survives(
        "revoke_update",
        Mistake {
            made: "REVOKE UPDATE ON sms.outbox FROM outboxd_daemon",
            mended: "GRANT UPDATE ON sms.outbox TO outboxd_daemon",
            said: "permission denied for table outbox",
            check: ("grants", "GRANT UPDATE ON sms.outbox TO outboxd_daemon;"),
            status: "results_refused",
        },
    )
    .await;
}

#[tokio::test]
async fn the_daemon_may_call_a_function_no_more_and_then_may_again() {
    survives(
        "revoke_execute",
        Mistake {
            made: "REVOKE EXECUTE ON FUNCTION outboxd.may_become FROM PUBLIC",
            mended: "GRANT EXECUTE ON FUNCTION outboxd.may_become TO PUBLIC",
            said: "permission denied for function may_become",
            check: ("grants", "GRANT EXECUTE ON FUNCTION outboxd.may_become TO outboxd_daemon;"),
            status: "results_refused",
        },
    )
    .await;
}

#[tokio::test]
async fn the_daemon_may_enter_the_schema_no_more_and_then_may_again() {
    survives(
        "revoke_usage",
        Mistake {
            made: "REVOKE USAGE ON SCHEMA sms FROM outboxd_daemon",
            mended: "GRANT USAGE ON SCHEMA sms TO outboxd_daemon",
            said: "permission denied for schema sms",
            check: ("grants", "GRANT USAGE ON schema sms TO outboxd_daemon;"),
            status: "permission denied for schema sms",
        },
    )
    .await;
}

#[tokio::test]
async fn the_daemons_own_schema_is_renamed_and_gets_its_name_again() {
    survives(
        "rename_schema",
        Mistake {
            made: "ALTER SCHEMA outboxd RENAME TO outboxd_aside",
            mended: "ALTER SCHEMA outboxd_aside RENAME TO outboxd",
            said: "schema \"outboxd\" does not exist",
            check: ("schema", "outboxd migrate"),
            status: "does not exist",
        },
    )
    .await;
}

#[tokio::test]
async fn a_function_is_replaced_by_one_that_forbids_everything_and_put_back() {
    survives(
        "replace_function",
        Mistake {
            made: "ALTER FUNCTION outboxd.may_become RENAME TO may_become_aside; \
               CREATE FUNCTION outboxd.may_become(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'",
            mended: "DROP FUNCTION outboxd.may_become; \
                 ALTER FUNCTION outboxd.may_become_aside RENAME TO may_become",
            said: "changed nothing",
            check: ("schema", "outboxd.may_become is not outboxd's own"),
            status: "results_refused",
        },
    )
    .await;
}
