//! A database of its own for each test, in the throwaway cluster that `tests/with-postgres` started.
//!
//! Migrating takes longer than copying, so the first test that comes makes a template and the others copy it. Tests
//! run in processes of their own: what they share is in the cluster, under an advisory lock. Databases are left to the
//! removal of the cluster.

use std::fmt::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, Config, NoTls};

use super::cluster::Cluster;

const TEMPLATE: &str = "outboxd_template";
const UNFINISHED_TEMPLATE: &str = "outboxd_template_unfinished";
/// Any number that nobody else locks: outboxd's own locks are taken in other databases.
const TEMPLATE_LOCK: i64 = 0x6f75_7462;

/// A freshly migrated database, used by one test alone.
#[derive(Debug)]
pub(crate) struct TestDb {
    name: String,
    /// The superuser of the cluster that it is in.
    server: Config,
}

impl TestDb {
    /// `hint` shows up in the database's name, for whoever reads the server's log.
    pub(crate) async fn create(hint: &str) -> TestDb {
        make_template_once().await;
        TestDb::copy_of(TEMPLATE, hint).await
    }

    /// A database with nothing of outboxd in it: for tests of the migration itself.
    pub(crate) async fn create_empty(hint: &str) -> TestDb {
        TestDb::copy_of("template0", hint).await
    }

    /// In a cluster of the test's own instead of the one that all share.
    pub(crate) async fn in_cluster(cluster: &Cluster, hint: &str) -> TestDb {
        let db = TestDb::new(cluster.config("postgres"), "template0", hint).await;
        migrate(&db.url());
        db
    }

    /// From now on the database of this name in another cluster, a replica of the first.
    pub(crate) fn move_to(&mut self, cluster: &Cluster) {
        self.server = cluster.config("postgres");
    }

    async fn copy_of(template: &str, hint: &str) -> TestDb {
        TestDb::new(cluster("postgres"), template, hint).await
    }

    async fn new(server: Config, template: &str, hint: &str) -> TestDb {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let hint: String =
            hint.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(30).collect();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t_{}_{}_{count}", hint.to_lowercase(), std::process::id());
        let maintenance = connect(&server).await;
        maintenance.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await.unwrap();
        TestDb { name, server }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Connection string of the superuser.
    pub(crate) fn url(&self) -> String {
        url(&self.config(), "postgres")
    }

    fn config(&self) -> Config {
        let mut config = self.server.clone();
        config.dbname(&self.name);
        config
    }

    /// A new connection of the superuser.
    pub(crate) async fn client(&self) -> Client {
        connect(&self.config()).await
    }

    /// Name of the login role of an application: roles belong to the whole cluster, so it carries the database's name.
    pub(crate) fn role(&self, app: &str) -> String {
        // At most 63 bytes, and the end is what tells databases apart.
        let mut role = format!("{app}_{}", self.name);
        if role.len() > 63 {
            role = format!("{app}_{}", &self.name[self.name.len() - 30..]);
        }
        role
    }

    /// A new connection as an application's login role that is granted `outboxd_app` and nothing else. The role is
    /// made when it is asked for first.
    pub(crate) async fn app_client(&self, app: &str) -> Client {
        let role = self.login_role(app, "outboxd_app").await;
        connect(self.config().user(role)).await
    }

    /// Connection string of a login role that is granted `outboxd_daemon` and nothing else: what a site gives the
    /// daemon.
    pub(crate) async fn daemon_url(&self) -> String {
        let role = self.login_role("daemon", "outboxd_daemon").await;
        url(&self.config(), &role)
    }

    async fn login_role(&self, name: &str, granted: &str) -> String {
        let role = self.role(name);
        let client = self.client().await;
        let exists = client.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&role]).await.unwrap();
        if exists.is_none() {
            let sql = format!("CREATE ROLE {role} LOGIN NOSUPERUSER IN ROLE {granted}");
            client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {}", in_full(&error)));
        }
        role
    }
}

/// The text of a database error, which `Display` keeps to itself.
pub(crate) fn in_full(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    if let Some(db) = error.as_db_error() {
        let _ = write!(text, ": {} {}", db.code().code(), db.message());
        if let Some(detail) = db.detail() {
            let _ = write!(text, " ({detail})");
        }
    }
    text
}

/// Opens a connection and drives it for as long as the client lives.
pub(crate) async fn connect(config: &Config) -> Client {
    let (client, connection) = match config.connect(NoTls).await {
        Ok(pair) => pair,
        Err(error) => panic!("could not connect to the test database: {}", in_full(&error)),
    };
    tokio::spawn(connection);
    client
}

/// Parameters of the throwaway cluster, for one of its databases.
pub(crate) fn cluster(database: &str) -> Config {
    let Ok(parameters) = std::env::var("OUTBOXD_TEST_PG") else {
        panic!("OUTBOXD_TEST_PG is not set: run through make test, or tests/with-postgres cargo test");
    };
    let mut config: Config = parameters.parse().expect("OUTBOXD_TEST_PG holds connection parameters");
    config.dbname(database).application_name("outboxd-test");
    config
}

/// The same as a URL, the form that people write into a configuration.
fn url(config: &Config, role: &str) -> String {
    let [tokio_postgres::config::Host::Unix(socket)] = config.get_hosts() else {
        panic!("no socket directory: {:?}", config.get_hosts());
    };
    let database = config.get_dbname().expect("a database is named");
    let socket = socket.to_str().expect("a socket directory in UTF-8").replace('/', "%2F");
    format!("postgresql://{role}@{socket}:{}/{database}", config.get_ports()[0])
}

/// Made under another name and renamed when it is whole, so that nobody copies what a killed test left half done.
async fn make_template_once() {
    let maintenance = connect(&cluster("postgres")).await;
    if template_exists(&maintenance).await {
        return;
    }
    maintenance.execute("SELECT pg_advisory_lock($1)", &[&TEMPLATE_LOCK]).await.unwrap();
    if !template_exists(&maintenance).await {
        let run = async |sql: String| maintenance.batch_execute(&sql).await.unwrap();
        run(format!("DROP DATABASE IF EXISTS {UNFINISHED_TEMPLATE} WITH (FORCE)")).await;
        run(format!("CREATE DATABASE {UNFINISHED_TEMPLATE} TEMPLATE template0")).await;
        migrate(&url(&cluster(UNFINISHED_TEMPLATE), "postgres"));
        run(format!("ALTER DATABASE {UNFINISHED_TEMPLATE} RENAME TO {TEMPLATE}")).await;
    }
    maintenance.execute("SELECT pg_advisory_unlock($1)", &[&TEMPLATE_LOCK]).await.unwrap();
}

async fn template_exists(maintenance: &Client) -> bool {
    maintenance.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&TEMPLATE]).await.unwrap().is_some()
}

/// Runs `outboxd migrate` as a site would, without a configuration file.
pub(crate) fn migrate(database_url: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_outboxd"))
        .args(["migrate", "--database", database_url])
        .output()
        .expect("outboxd can be started");
    assert!(
        output.status.success(),
        "outboxd migrate: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[cfg(test)]
mod tests {
    use super::{TestDb, connect};

    #[tokio::test]
    async fn each_test_has_a_database_of_its_own() {
        let (one, other) = tokio::join!(TestDb::create("one"), TestDb::create("The Other?"));
        assert_ne!(one.name(), other.name());
        one.client().await.batch_execute("CREATE TABLE public.mine ()").await.unwrap();
        let seen =
            other.client().await.query("SELECT FROM pg_tables WHERE tablename = 'mine'", &[]).await.unwrap();
        assert!(seen.is_empty());
    }

    #[tokio::test]
    async fn the_url_leads_to_the_database_through_the_socket() {
        let db = TestDb::create_empty("url").await;
        let client = connect(&db.url().parse().unwrap()).await;
        let row = client
            .query_one("SELECT current_database()::text, inet_server_addr() IS NULL", &[])
            .await
            .unwrap();
        assert_eq!((row.get(0), row.get(1)), (db.name(), true));
    }
}
