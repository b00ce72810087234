//! A primary and its streaming replica, for failovers: WAL that is no longer shipped, a primary that dies, a promotion.

use std::time::Instant;

use super::cluster::{Cluster, Stop};
use super::eventually;
use super::site::{LIMIT, Site};

/// The replica's name in `synchronous_standby_names`.
pub(crate) const REPLICA: &str = "replica";

/// Whether a commit on the primary waits for the replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replication {
    Synchronous,
    Asynchronous,
}

/// From now on each commit on this primary waits for its replica.
pub(crate) async fn wait_for_replica_in_commits(primary: &Cluster) {
    primary.configure(&format!("synchronous_standby_names = '{REPLICA}'"));
    let sql = primary.client("postgres").await;
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually(LIMIT, "the replica is synchronous", async || {
        let row = sql.query_opt("SELECT sync_state FROM pg_stat_replication", &[]).await.unwrap();
        let state = row.map(|row| row.get::<_, Option<String>>(0));
        if state == Some(Some("sync".to_owned())) { Ok(()) } else { Err(state) }
    })
    .await;
}

/// Dropped like its clusters, with all that is in them.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) primary: Cluster,
    /// Takes no writes until it is promoted.
    pub(crate) replica: Cluster,
}

impl Pair {
    pub(crate) async fn start(replication: Replication) -> Pair {
        let primary = Cluster::start("").await;
        let replica = primary.replica(REPLICA, "").await;
        let pair = Pair { primary, replica };
        if replication == Replication::Synchronous {
            wait_for_replica_in_commits(&pair.primary).await;
        }
        pair
    }

    /// A database in the primary. Its daemons are told of both servers, and work with whichever takes writes.
    pub(crate) async fn site(&self, hint: &str, receipts: bool) -> Site {
        let mut site = Site::in_cluster(&self.primary, hint, receipts).await;
        let through_socket: tokio_postgres::Config = site.daemon_url.parse().unwrap();
        let role = through_socket.get_user().unwrap();
        site.daemon_url = format!(
            "postgresql://{role}@{},{}/{}?target_session_attrs=read-write",
            self.primary.address(),
            self.replica.address(),
            site.db.name()
        );
        site
    }

    /// Waits until the replica has all that is committed now.
    pub(crate) async fn catch_up(&self) {
        let (primary, replica) =
            (self.primary.client("postgres").await, self.replica.client("postgres").await);
        let row = primary.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
        let written: String = row.get(0);
        eventually(LIMIT, "the replica has caught up", async || {
            let sql = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
            let done: bool = replica.query_one(sql, &[&written]).await.unwrap().get(0);
            if done { Ok(()) } else { Err(written.clone()) }
        })
        .await;
    }

    /// Cuts the replica off: what the primary commits from now on is lost with it.
    pub(crate) async fn stop_shipping(&self) {
        let replica = self.replica.client("postgres").await;
        replica.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
        replica.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let primary = self.primary.client("postgres").await;
        eventually(LIMIT, "no WAL is shipped", async || {
            let sql = "SELECT count(*) FROM pg_stat_replication";
            let senders: i64 = primary.query_one(sql, &[]).await.unwrap().get(0);
            if senders == 0 { Ok(()) } else { Err(senders) }
        })
        .await;
    }

    /// The primary dies at once, and the replica takes its place.
    pub(crate) async fn fail_over(&mut self, site: &mut Site) {
        self.primary.stop(Stop::Kill).await;
        self.promote(site).await;
    }

    /// The replica takes writes from now on, whatever became of the primary. Returns when that began.
    pub(crate) async fn promote(&mut self, site: &mut Site) -> Instant {
        let sql = self.replica.client("postgres").await;
        sql.batch_execute("SELECT pg_promote(false)").await.unwrap();
        let promoted = eventually(LIMIT, "the replica is promoted", async || {
            let recovers: bool = sql.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap().get(0);
            if recovers { Err("it is still in recovery") } else { Ok(Instant::now()) }
        })
        .await;
        site.move_to(&self.replica).await;
        promoted
    }
}

#[cfg(test)]
mod tests {
    use super::{Pair, Replication};

    #[tokio::test]
    async fn what_is_committed_after_the_shipping_stopped_is_lost_in_the_failover() {
        let mut pair = Pair::start(Replication::Asynchronous).await;
        let mut site = pair.site("pair", false).await;
        site.queue(3).await;
        pair.catch_up().await;
        pair.stop_shipping().await;
        site.queue(2).await;
        assert_eq!(site.number("SELECT count(*) FROM sms.outbox").await, 5);
        pair.fail_over(&mut site).await;
        assert_eq!(site.number("SELECT count(*) FROM sms.outbox").await, 3);
        site.queue(4).await;
        assert_eq!(site.number("SELECT count(*) FROM sms.outbox").await, 7);
    }

    #[tokio::test]
    async fn a_commit_that_a_synchronous_replica_confirmed_survives_the_failover() {
        let mut pair = Pair::start(Replication::Synchronous).await;
        let mut site = pair.site("pair_sync", false).await;
        site.queue(5).await;
        pair.fail_over(&mut site).await;
        assert_eq!(site.number("SELECT count(*) FROM sms.outbox").await, 5);
    }
}
