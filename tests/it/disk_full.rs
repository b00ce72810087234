//! Disks that are full under PostgreSQL: what cannot be written is kept, and nothing is sent a second time.

use std::time::Duration;

use tokio_postgres::IsolationLevel;

use crate::support::application::Application;
use crate::support::books::Committed;
use crate::support::cluster::{Cluster, Stop, give_to_server};
use crate::support::eventually;
use crate::support::site::{LIMIT, Lines, Site};
use crate::support::small_disk::SmallDisk;

const EIGHT_AT_ONCE: Lines<'_> = Lines { queue: "", gateway: "concurrency = 8", more: "", receipts: false };

/// The rows grow when their results are written: their pages have no room for all of that.
#[tokio::test]
async fn while_the_disk_under_the_outbox_is_full_results_are_kept_and_written_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let mut cluster = Cluster::start("fsync = off\nautovacuum = off").await;
    cluster.stop(Stop::Fast).await;
    cluster.enter_mounts_of(disk.holder());
    cluster.run().await;
    let site = Site::in_cluster(&cluster, "data_full", false).await;
    std::fs::create_dir(disk.seen_from_here().join("space")).unwrap();
    give_to_server(&disk.seen_from_here().join("space"));
    site.run(&format!("CREATE TABLESPACE small LOCATION '{}/space'", disk.path().display())).await;
    site.run("ALTER TABLE sms.outbox SET TABLESPACE small").await;
    let mut committed = Committed::default();
    site.queue_texts(&mut committed, "a text that takes some room on its page", 3_000).await;
    // Old versions of rows stay for somebody who still looks at them, and their pages become full.
    let mut other = site.db.client().await;
    let looking =
        other.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().await.unwrap();
    looking.query("SELECT count(*) FROM sms.outbox", &[]).await.unwrap();
    disk.fill();
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    daemon.wait_log(LIMIT, "[53100]").await;
    // Nothing new is begun while results wait; and they do not become more.
    eventually(LIMIT, "the daemon has stopped sending", async || {
        let before = site.sim_count("requests").await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let after = site.sim_count("requests").await;
        if before == after { Ok(()) } else { Err(after - before) }
    })
    .await;
    let complaints = daemon.logged(" WARN ") + daemon.logged(" ERROR ");
    assert!(complaints <= 6, "each is told once: {}", daemon.log());
    disk.empty();
    site.until_all_sent(&committed).await;
    daemon.wait_log(LIMIT, "results are being written again").await;
    daemon.assert_memory_bounded();
}

/// It panics, and comes back by itself or not at all; whoever runs it makes room and starts it again.
#[tokio::test]
async fn when_the_disk_under_the_wal_was_full_nothing_is_lost_or_doubled() {
    let Some(disk) = SmallDisk::mount(96) else { return };
    let mut cluster = Cluster::start("wal_keep_size = 0\nmin_wal_size = '32MB'\nmax_wal_size = '48MB'").await;
    cluster.stop(Stop::Fast).await;
    let wal = disk.path().join("wal");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(cluster.data().join("pg_wal"))
        .arg(disk.seen_from_here().join("wal"))
        .status();
    assert!(copied.unwrap().success());
    std::fs::remove_dir_all(cluster.data().join("pg_wal")).unwrap();
    std::os::unix::fs::symlink(&wal, cluster.data().join("pg_wal")).unwrap();
    cluster.enter_mounts_of(disk.holder());
    cluster.run().await;
    let mut site = Site::in_cluster(&cluster, "wal_full", false).await;
    let daemon = site.daemon(EIGHT_AT_ONCE).await;
    let application = Application::start(&site, "wal full");
    for round in 1..=2 {
        site.sim_reaches(&format!("accepted={}", round * 60)).await;
        disk.fill();
        eventually(LIMIT, "it panics", async || {
            // The next segment is needed soon, and what a checkpoint gives back is taken as well.
            if let Ok((client, connection)) = cluster.config("postgres").connect(tokio_postgres::NoTls).await
            {
                tokio::spawn(connection);
                let _ = client.execute("SELECT pg_switch_wal()", &[]).await;
            }
            disk.fill();
            let panics = cluster.log().matches("PANIC").count();
            if panics >= round { Ok(()) } else { Err(panics) }
        })
        .await;
        daemon.until_logged(round, "lost leadership").await;
        disk.empty();
        eventually(LIMIT, "the server is back", async || {
            if cluster.has_ended() {
                cluster.run().await;
            }
            cluster
                .config("postgres")
                .connect(tokio_postgres::NoTls)
                .await
                .map(|_| ())
                .map_err(|error| error.to_string())
        })
        .await;
    }
    let committed = application.stop().await;
    site.reconnect().await;
    site.until_all_sent(&committed).await;
    daemon.assert_memory_bounded();
}
