//! How connections to PostgreSQL are made: the pool's settings, the sessions of the lock and of LISTEN, what a pooler in
//! the way makes of them.

use std::fmt::Display;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::{Client, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{Database, Pooler};
use crate::store::failover::Expected;
use crate::store::hosts::Connector;
use crate::store::transaction::Way;
use crate::store::{StoreError, hosts, plain, tls};

/// What a row of someone else's lock may cost a flush before the locked rows are left out.
const LOCK_TIMEOUT: Duration = Duration::from_millis(250);

/// Longest pause between two statements of a transaction. A daemon that is paused or cut off right there keeps its rows
/// locked for so long, and a takeover waits for them.
const TRANSACTION_PAUSE: Duration = Duration::from_secs(2);

/// A setting without a meaning to the server. A session that does not have it was not begun as we asked.
const MARK: &str = "-c outboxd.session=ours";

pub(super) type TlsStream = <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream;

/// A connection that is driven by its owner.
pub type Direct = (Client, Connection<Socket, TlsStream>);

/// Connections for short statements, and how statements go over them.
pub(super) fn pool(database: &Database, expected: &Expected) -> Result<(Pool, Way), StoreError> {
    let settings = settings(database.timeout);
    let mut config = database.connect.clone();
    let way = match database.pooler {
        Pooler::None => {
            config.options(join_options(&config, &startup_options(&settings)));
            Way::Session
        }
        Pooler::Transaction => Way::Pooler { begin: begin(&settings).into() },
    };
    let manager = Manager::from_connect(
        config,
        Connector { tls: tls::connector(database)?, expected: expected.clone() },
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let expected = expected.clone();
    let still_good = Hook::sync_fn(move |_, metrics| {
        let outdated = expected.is_outdated(metrics.age());
        if outdated { Err(HookError::message("it may lead to another server")) } else { Ok(()) }
    });
    let mut pool = Pool::builder(manager).max_size(database.pool_size).pre_recycle(still_good);
    if let Way::Session = way {
        pool = pool.post_create(Hook::async_fn(|client, _| {
            Box::pin(async move {
                let ours = is_ours(client).await.map_err(HookError::Backend)?;
                if ours { Ok(()) } else { Err(HookError::message("not begun as we asked")) }
            })
        }));
    }
    let pool = pool.build().map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok((pool, way))
}

type Settings = Vec<(&'static str, String)>;

/// What the daemon's statements rely on.
fn settings(timeout: Duration) -> Settings {
    let mut settings: Settings = vec![
        ("synchronous_commit", "on".to_owned()),
        ("lock_timeout", LOCK_TIMEOUT.as_millis().to_string()),
        // Shorter than our own limit, so that the server, which knows the outcome, speaks first.
        ("statement_timeout", (timeout * 4 / 5).as_millis().to_string()),
        ("idle_in_transaction_session_timeout", TRANSACTION_PAUSE.as_millis().to_string()),
        ("search_path", "pg_catalog".to_owned()),
        ("jit", "off".to_owned()),
        ("plan_cache_mode", "force_generic_plan".to_owned()),
    ];
    // Queues have statistics that are wrong most of the time: right after a big delete or insert the planner would
    // choose a sequential scan, a hash join or a sort. Every statement here has one good plan, along an index.
    for switch in ["enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"] {
        settings.push((switch, "off".to_owned()));
    }
    settings
}

/// The same for the length of a session. Whatever the site's default isolation is: serializable, our statements would be
/// rolled back, and roll back others'.
fn startup_options(settings: &Settings) -> String {
    let isolation = ("default_transaction_isolation", "read\\ committed".to_owned());
    settings
        .iter()
        .chain([&isolation])
        .map(|(name, value)| format!("-c {name}={value}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Begins a transaction and makes the settings for its length.
pub(super) fn begin(settings: &Settings) -> String {
    // What somebody else left behind in the pooled session must not decide about it.
    let mut sql = "BEGIN ISOLATION LEVEL READ COMMITTED".to_owned();
    for (name, value) in settings {
        sql.push_str(&format!("; SET LOCAL {name} = '{value}'"));
    }
    sql
}

/// One session of its own, with settings of its own (`-c name=value …`).
pub(super) async fn direct(
    database: &Database,
    expected: &Expected,
    settings: &str,
) -> Result<Direct, StoreError> {
    let mut config = database.connect.clone();
    config.options(join_options(&config, settings));
    let work = async {
        let (client, mut connection) = connect(database, &config, expected).await?;
        let ours = tokio::select! {
            ours = is_ours(&client) => ours.map_err(|error| failed(&error))?,
            ended = &mut connection => return Err(closed(ended)),
        };
        if ours { Ok((client, connection)) } else { Err(settings_dropped()) }
    };
    in_time(database, work).await
}

/// One connection without settings, whatever it leads to.
pub(super) async fn bare(database: &Database, expected: &Expected) -> Result<Direct, StoreError> {
    in_time(database, connect(database, &database.connect, expected)).await
}

async fn connect(
    database: &Database,
    config: &tokio_postgres::Config,
    expected: &Expected,
) -> Result<Direct, StoreError> {
    // On the heap: a log-in over TLS is a large future.
    Box::pin(hosts::connect(config, tls::connector(database)?, expected))
        .await
        .map_err(|error| failed(&error))
}

/// `connect_timeout` covers only TCP; TLS and authentication can hang as well.
async fn in_time<T>(
    database: &Database,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(database.timeout, work).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {:?}", database.timeout))),
    }
}

/// Whether the session has the settings that we asked for: a pooler may drop them without a word.
async fn is_ours(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let sql =
        "-- outboxd: session\nSELECT current_setting('outboxd.session', true) IS NOT DISTINCT FROM 'ours'";
    client.query_typed_one(sql, &[]).await?.try_get(0)
}

const DECLARE_POOLER: &str = "if a connection pooler stands there, say pooler = \"transaction\" in [database], and let \
                              direct_url lead past it";

/// No connection, or no further than to a pooler.
pub(super) fn failed(error: &tokio_postgres::Error) -> StoreError {
    wrong_way(error).unwrap_or_else(|| {
        let reason = plain(error);
        StoreError::Unavailable(match tls::advice(error) {
            Some(advice) => format!("{reason}; {advice}"),
            None => reason,
        })
    })
}

/// What a pooler says when it stands where the configuration knows of none, or does not pool transactions.
pub(super) fn wrong_way(error: &tokio_postgres::Error) -> Option<StoreError> {
    let reason = plain(error);
    if reason.contains("unsupported startup parameter") {
        let what = format!("our session settings were refused ({reason})");
        return Some(StoreError::WrongWay { what, advice: DECLARE_POOLER });
    }
    reason.contains("statement pooling mode").then(|| StoreError::WrongWay {
        what: format!("the pooler does not let several statements be one transaction ({reason})"),
        advice: "set pool_mode = transaction in the pooler for this database or user",
    })
}

pub(super) fn settings_dropped() -> StoreError {
    let what = "our session settings were dropped on the way to the server".to_owned();
    StoreError::WrongWay { what, advice: DECLARE_POOLER }
}

/// What was prepared in our session is not there, or what we are about to prepare is.
pub(super) fn session_lost(reason: impl Display) -> StoreError {
    let what = format!("one session turned out to be several ({reason})");
    StoreError::WrongWay { what, advice: DECLARE_POOLER }
}

fn closed(ended: Result<(), tokio_postgres::Error>) -> StoreError {
    match ended {
        Ok(()) => StoreError::Unavailable("the connection was closed".to_owned()),
        Err(error) => failed(&error),
    }
}

fn join_options(config: &tokio_postgres::Config, settings: &str) -> String {
    // The site's own options come last and win.
    let own = config.get_options().unwrap_or_default();
    format!("{MARK} {settings} {own}")
}
