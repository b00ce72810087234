//! Which of several servers to work with: the one on the latest timeline.
//!
//! Of two servers that take writes, one is an old primary that came back after a failover and was not kept away. libpq
//! would take the first in the list. We ask all of them at once, so that a dead one costs no time either, and never go
//! back to an earlier timeline than the one that we have worked on.

use std::time::Duration;

use deadpool_postgres::Connect;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Connection, Error, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use crate::store::connect::{Direct, TlsStream};
use crate::store::failover::Expected;

/// After the first server has answered, how long another one may take that is on a later timeline.
const GRACE: Duration = Duration::from_millis(300);

/// A server that takes no writes has no timeline of its own.
const TIMELINE: &str = "-- outboxd: hosts\n\
    SELECT CASE WHEN pg_is_in_recovery() THEN 0 ELSE \
    ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer END";

/// A server that let us in.
struct Answered {
    timeline: i32,
    /// Its place in the list.
    place: usize,
    direct: Direct,
}

/// Connects to the best of the hosts. One on an earlier timeline than expected is refused, in its own words.
pub(super) async fn connect(
    config: &Config,
    tls: MakeRustlsConnect,
    expected: &Expected,
) -> Result<Direct, Error> {
    let hosts = config.get_hosts().len().max(config.get_hostaddrs().len());
    let mut tries: FuturesUnordered<_> =
        (0..hosts).map(|place| answer(only(config, place, hosts), tls.clone(), place)).collect();
    let mut best: Option<Answered> = None;
    let mut failed = None;
    // Armed by the first answer.
    let mut grace = std::pin::pin!(tokio::time::sleep(Duration::from_secs(3600)));
    loop {
        tokio::select! {
            tried = tries.next() => match tried {
                Some(Ok(answered)) => {
                    if best.is_none() {
                        grace.as_mut().reset(tokio::time::Instant::now() + GRACE);
                    }
                    let expected = expected.get() == Some(answered.timeline);
                    if best.as_ref().is_none_or(|best| is_better(&answered, best)) {
                        best = Some(answered);
                    }
                    if expected {
                        break;
                    }
                }
                // The first that is in the list is the one that people look for.
                Some(Err((place, error))) => {
                    debug!(place, %error, "no connection to one of the database's hosts");
                    if failed.as_ref().is_none_or(|(first, _)| place < *first) {
                        failed = Some((place, error));
                    }
                }
                None => break,
            },
            () = &mut grace, if best.is_some() => break,
        }
    }
    match (best, failed) {
        (Some(best), _) => not_earlier(best, expected).await,
        (None, Some((_, error))) => Err(error),
        // No host is named: the library says so.
        (None, None) => config.connect(tls).await,
    }
}

async fn not_earlier(best: Answered, expected: &Expected) -> Result<Direct, Error> {
    let Answered { timeline, direct: (client, mut connection), .. } = best;
    if let Some(expected) = expected.get().filter(|expected| timeline < *expected) {
        let sql = format!("SELECT outboxd.expect_timeline({expected})");
        ask(&client, &mut connection, &sql).await?;
    }
    Ok((client, connection))
}

fn is_better(one: &Answered, other: &Answered) -> bool {
    (one.timeline, std::cmp::Reverse(one.place)) > (other.timeline, std::cmp::Reverse(other.place))
}

async fn answer(config: Config, tls: MakeRustlsConnect, place: usize) -> Result<Answered, (usize, Error)> {
    let fault = |error| (place, error);
    let (client, mut connection) = config.connect(tls).await.map_err(fault)?;
    let rows = ask(&client, &mut connection, TIMELINE).await.map_err(fault)?;
    let timeline = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    Ok(Answered { timeline: timeline.unwrap_or(0), place, direct: (client, connection) })
}

/// Asks while keeping the connection going.
async fn ask(
    client: &Client,
    connection: &mut Connection<Socket, TlsStream>,
    sql: &str,
) -> Result<Vec<SimpleQueryMessage>, Error> {
    let asking = client.simple_query(sql);
    tokio::pin!(asking);
    tokio::select! {
        rows = &mut asking => rows,
        // It ends only when it was closed; then the question fails as well.
        _ = connection => asking.await,
    }
}

/// The same with one of its hosts. The library has no way to take a host out of a configuration.
fn only(config: &Config, place: usize, hosts: usize) -> Config {
    if hosts == 1 {
        return config.clone();
    }
    let mut one = Config::new();
    if let Some(host) = config.get_hosts().get(place) {
        match host {
            tokio_postgres::config::Host::Tcp(name) => one.host(name),
            tokio_postgres::config::Host::Unix(path) => one.host_path(path),
        };
    }
    if let Some(address) = config.get_hostaddrs().get(place) {
        one.hostaddr(*address);
    }
    if let Some(port) = config.get_ports().get(place).or_else(|| config.get_ports().first()) {
        one.port(*port);
    }
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(dbname) = config.get_dbname() {
        one.dbname(dbname);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    if let Some(name) = config.get_application_name() {
        one.application_name(name);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        one.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        one.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding());
    one
}

/// The pool's way to connect.
pub(super) struct Connector {
    pub(super) tls: MakeRustlsConnect,
    pub(super) expected: Expected,
}

impl Connect for Connector {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        let config = config.clone();
        Box::pin(async move {
            let (client, connection) = connect(&config, self.tls.clone(), &self.expected).await?;
            // The pool aborts it with its connection.
            let driver = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(%error, "a connection to the database ended");
                }
            });
            Ok((client, driver))
        })
    }
}
