//! A network that drops or rejects packets, by nftables rules in a network namespace of our own.
//!
//! Each daemon has an address of its own for PostgreSQL, so that one can be cut off while another works. We ourselves
//! use PostgreSQL's socket and the simulator's control port, which are never cut.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::faults::last;
use crate::schedule::{Event, What};
use crate::world::World;

pub(super) async fn strike(world: &World, event: &Event) {
    match event.what {
        What::CutDatabase | What::RefuseDatabase => {
            let number = world.target(event.whom).await;
            let leads = world.leader().await == Some(number);
            if leads && world.standbys(number) > 0 && event.lasts_ms > 2 * world.schedule.site.lease_ms {
                world.notes.silences.borrow_mut().push(Instant::now());
            }
            let (address, port) = (number + 1, world.port());
            let rules = [
                format!("ip daddr 127.0.0.{address} tcp dport {port}"),
                format!("ip saddr 127.0.0.{address} tcp sport {port}"),
            ];
            cut(world, event, &rules).await;
        }
        What::HalfOpenListen => {
            let listening = "SELECT client_port FROM pg_stat_activity WHERE usename = 'chaos_daemon' AND client_port > 0 \
                             AND (query LIKE 'LISTEN%' OR query LIKE 'SELECT pg_notify%') ORDER BY pid";
            cut_session(world, event, listening).await;
        }
        What::HalfOpenLock => {
            let holding = "SELECT a.client_port FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) \
                           WHERE l.locktype = 'advisory' AND l.granted AND a.client_port > 0";
            cut_session(world, event, holding).await;
        }
        What::CutGateway | What::RefuseGateway => {
            world.note_outage();
            let port = world.gateway_port();
            cut(world, event, &[format!("tcp dport {port}"), format!("tcp sport {port}")]).await;
        }
        other => unreachable!("{other:?} is no fault of the network"),
    }
}

/// Cuts the first of the sessions whose ports a query finds.
async fn cut_session(world: &World, event: &Event, query: &str) {
    let Some(sql) = world.sql().await else { return };
    let Ok(rows) = sql.query(query, &[]).await else { return };
    let Some(port) = rows.first().map(|row| row.get::<_, i32>(0)) else { return };
    cut(world, event, &[format!("tcp dport {port}"), format!("tcp sport {port}")]).await;
}

/// Drops or rejects what these rules match, for as long as the event lasts.
async fn cut(world: &World, event: &Event, rules: &[String]) {
    let verdict = match event.what {
        What::RefuseDatabase | What::RefuseGateway => "reject with tcp reset",
        _ => "drop",
    };
    let table = format!("chaos_{}_{:x}", world.schedule.seed, event.dice);
    let rules: String = rules.iter().map(|rule| format!("    {rule} {verdict}\n")).collect();
    nft(&format!(
        "table inet {table} {{\n  chain out {{\n    type filter hook output priority 0;\n{rules}  }}\n}}\n"
    ));
    last(event).await;
    nft(&format!("delete table inet {table}\n"));
}

fn nft(script: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "nft refused:\n{script}");
}
