//! What every schedule starts from: a cluster that was made and migrated once, and is then copied, which takes a tenth
//! of the time.

use crate::machine::Machine;
use crate::support::cluster::{Cluster, Stop};
use crate::support::postgres::migrate;

pub(crate) const DATABASE: &str = "chaos";
/// Applications log in as this.
pub(crate) const APP: &str = "chaos_app";
/// The daemons log in as this, and may no more than a daemon may.
pub(crate) const DAEMON: &str = "chaos_daemon";

/// Texts that rows name instead of bringing one. Each shows the token that the books go by.
pub(crate) const TEMPLATES: [(&str, &str); 2] = [
    ("reminder", "Dear {name|customer}, see you on Tuesday. {token}"),
    ("code", "{token} is your code, {{not}} the price"),
];

/// Loopback addresses, one for each daemon, so that the network can be cut for one of them.
const ADDRESSES: &str = "listen_addresses = '127.0.0.1,127.0.0.2,127.0.0.3,127.0.0.4'";

/// What every schedule is given: clusters to copy, which do not run, and what the machine can do.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) template: Cluster,
    /// Another identity, and nothing in it but the roles.
    pub(crate) stranger: Cluster,
    pub(crate) machine: Machine,
}

impl Stage {
    pub(crate) async fn make() -> Stage {
        let (template, stranger) = tokio::join!(template(), stranger());
        Stage { template, stranger, machine: Machine::look() }
    }
}

/// Processes are killed here, machines are not: what PostgreSQL has written survives without being forced to the disk,
/// and a machine that does other things meanwhile is spared.
fn settings() -> String {
    format!("{ADDRESSES}\nmax_connections = 100\nfsync = off\n")
}

async fn stranger() -> Cluster {
    let mut cluster = Cluster::start(&settings()).await;
    let sql = cluster.client("postgres").await;
    let roles = "CREATE ROLE outboxd_app; CREATE ROLE outboxd_daemon; CREATE ROLE outboxd_operator";
    sql.batch_execute(&format!("{roles}; CREATE ROLE {APP} LOGIN IN ROLE outboxd_app")).await.unwrap();
    sql.batch_execute(&format!("CREATE ROLE {DAEMON} LOGIN IN ROLE outboxd_daemon")).await.unwrap();
    sql.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await.unwrap();
    drop(sql);
    cluster.stop(Stop::Fast).await;
    cluster
}

async fn template() -> Cluster {
    let mut cluster = Cluster::start(&settings()).await;
    let maintenance = cluster.client("postgres").await;
    maintenance.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await.unwrap();
    let socket = cluster.socket().to_str().unwrap().replace('/', "%2F");
    migrate(&format!("postgresql://postgres@{socket}:{}/{DATABASE}", cluster.port()));
    let sql = cluster.client(DATABASE).await;
    for (role, granted) in [(APP, "outboxd_app"), (DAEMON, "outboxd_daemon")] {
        sql.batch_execute(&format!("CREATE ROLE {role} LOGIN IN ROLE {granted}")).await.unwrap();
    }
    for (name, body) in TEMPLATES {
        let insert = "INSERT INTO sms.template (name, body) VALUES ($1, $2)";
        sql.execute(insert, &[&name, &body]).await.unwrap();
    }
    drop((maintenance, sql));
    cluster.stop(Stop::Fast).await;
    cluster
}
