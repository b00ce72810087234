//! A peer on the same job: the best one known, `graphile_worker`, tuned, drains the same messages to the same sink, turn by
//! turn with outboxd.
//!
//! It is a package of its own in `benches/peer/` and is built here when it is asked for. Where that cannot be done, for
//! example because no registry can be reached, the figure is left out.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Plan;
use crate::drain::{self, per_second};
use crate::processes::{Moment, cpu, memory_mb};
use crate::report::{Better, Report};
use crate::site::{Site, TEXT};

pub(crate) async fn measure(site: &Site, plan: &Plan, report: &mut Report) {
    let program = match build() {
        Ok(program) => program,
        Err(why) => {
            println!("peer: left out, for it could not be built: {why}");
            return;
        }
    };
    let mut figure = report.figure("drain_vs_peer", "ratio", 1.7, Better::Higher);
    figure.says("messages a second of outboxd / of a tuned graphile_worker that keeps nothing but its queue");
    for round in 1..=plan.rounds {
        let own = drain::outboxd(site, plan.rows).await.per_second;
        let peer = Peer::drain(site, &program, plan.rows).await;
        println!(
            "peer {round}: outboxd {own:.0}/s, graphile_worker {:.0}/s (PostgreSQL {:.1} µs, itself {:.1} µs a message, {:.1} MB)",
            peer.per_second, peer.postgres_us, peer.own_us, peer.memory_mb
        );
        figure.add(own / peer.per_second);
    }
    report.take([figure]);
    site.run("DROP SCHEMA graphile_worker CASCADE").await;
}

fn build() -> Result<PathBuf, String> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = repository.join("target/bench/peer");
    println!("peer: building benches/peer, which takes minutes the first time");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
        .arg(repository.join("benches/peer/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cargo cannot be started ({error})"))?;
    if status.success() {
        Ok(target.join("release/outboxd-bench-peer"))
    } else {
        Err(format!("cargo: {status}"))
    }
}

/// The running peer; it is killed when this is dropped.
#[derive(Debug)]
struct Peer(Child);

#[derive(Debug)]
struct Drained {
    per_second: f64,
    postgres_us: f64,
    own_us: f64,
    memory_mb: f64,
}

impl Peer {
    async fn drain(site: &Site, program: &Path, rows: u32) -> Drained {
        let mut peer = Peer::start(site, program);
        site.run(&format!(
            "SELECT count(graphile_worker.add_job('send_message', \
                 json_build_object('id', n, 'recipient', '3538' || (50000000 + n), 'body', {TEXT}))) \
             FROM generate_series(1, {rows}) AS n"
        ))
        .await;
        site.run("VACUUM ANALYZE graphile_worker._private_jobs").await;
        site.run("CHECKPOINT").await;
        let (server, pid, posts) = (site.cluster.pid(), peer.0.id(), site.sink.posts());
        let (before, own_before) = (cpu(server, true), cpu(pid, false));
        peer.begin();
        // As with outboxd: from the first request to the last job that is done.
        site.until_posts_since(posts, 1).await;
        let begun = Moment::now();
        site.until_posts_since(posts, u64::from(rows)).await;
        site.until_zero("SELECT count(*) FROM (SELECT FROM graphile_worker._private_jobs LIMIT 1) AS found")
            .await;
        let took = Moment::now() - begun;
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / f64::from(rows);
        Drained {
            per_second: per_second(rows, took),
            postgres_us: each(cpu(server, true) - before),
            own_us: each(cpu(pid, false) - own_before),
            memory_mb: memory_mb(pid, "VmHWM"),
        }
    }

    /// Its schema is there when this returns; it waits for [`Peer::begin`].
    fn start(site: &Site, program: &Path) -> Peer {
        let (socket, port) = (site.cluster.socket(), site.cluster.port());
        let database =
            format!("postgres://postgres@localhost/{}?host={}&port={port}", site.db.name(), socket.display());
        let mut child = Command::new(program)
            .arg(database)
            .arg(format!("http://{}/api/v2/Campaign", site.sink.address))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer can be started");
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said.trim(), "ready", "the peer did not get ready");
        Peer(child)
    }

    fn begin(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
