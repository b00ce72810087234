//! The cluster that every schedule starts from: made and migrated once, then copied, which takes a tenth of the time.

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

/// Makes it, and stops it.
pub(crate) async fn make() -> Cluster {
    let mut cluster = Cluster::start(&format!("{ADDRESSES}\nmax_connections = 100\n")).await;
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
