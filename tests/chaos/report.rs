//! What is told of a whole run: `target/chaos/books.json` for programs, `target/chaos/table.md` for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::books::Breach;
use crate::run::Outcome;
use crate::schedule::{FAMILIES, Family, KINDS, Schedule, What};

/// Sums over schedules.
#[derive(Debug, Default, Clone)]
struct Sums {
    schedules: u64,
    messages: u64,
    lost: u64,
    doubled: u64,
    stuck: u64,
    wrong: u64,
    unknown: u64,
    resent: u64,
}

impl Sums {
    fn add(&mut self, outcome: &Outcome) {
        let breaches = |breach| {
            outcome.comparison.findings.iter().filter(|finding| finding.breach == breach).count() as u64
        };
        self.schedules += 1;
        self.messages += outcome.comparison.messages;
        self.lost += breaches(Breach::Lost);
        self.doubled += breaches(Breach::Doubled);
        self.stuck += breaches(Breach::Stuck);
        self.wrong += breaches(Breach::Wrong);
        self.unknown += outcome.comparison.unknown;
        self.resent += outcome.comparison.resent;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    all: Sums,
    families: BTreeMap<Family, Sums>,
    faults: BTreeMap<What, u64>,
    accepted: u64,
    in_doubt: u64,
    peak_kb: u64,
    takeovers_ms: Vec<u64>,
    first_sends_ms: Vec<u64>,
    beyond_lease_ms: Vec<i64>,
    copies_held: u64,
    failovers_ms: Vec<u64>,
    lost_with_primary: u64,
    set_aside: u64,
    slowest_settle_ms: u64,
    seeds: Vec<u64>,
    /// Schedules in which something was found.
    bad: Vec<u64>,
    /// What this machine could not play, and why.
    pub(crate) left_out: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, schedule: &Schedule, outcome: &Outcome) {
        self.all.add(outcome);
        for family in &schedule.families {
            self.families.entry(*family).or_default().add(outcome);
        }
        for (what, count) in &outcome.faults {
            *self.faults.entry(*what).or_default() += count;
        }
        self.accepted += outcome.comparison.accepted;
        self.in_doubt += outcome.in_doubt;
        self.peak_kb = self.peak_kb.max(outcome.peak_kb);
        self.takeovers_ms.extend(&outcome.takeovers_ms);
        self.first_sends_ms.extend(&outcome.first_sends_ms);
        self.beyond_lease_ms.extend(&outcome.beyond_lease_ms);
        self.copies_held += outcome.copies_held;
        self.failovers_ms.extend(&outcome.failovers_ms);
        self.lost_with_primary += outcome.comparison.lost_with_primary;
        self.set_aside += outcome.comparison.set_aside;
        self.slowest_settle_ms = self.slowest_settle_ms.max(outcome.settled_ms);
        self.seeds.push(schedule.seed);
        if !outcome.comparison.findings.is_empty() {
            self.bad.push(schedule.seed);
        }
    }

    /// A schedule that could not be played to its end.
    pub(crate) fn add_failure(&mut self, seed: u64) {
        self.bad.push(seed);
        self.seeds.push(seed);
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.bad.is_empty()
    }

    pub(crate) fn summary(&self) -> String {
        let Sums { schedules, messages, lost, doubled, stuck, wrong, unknown, resent } = &self.all;
        format!(
            "{schedules} schedules, {messages} messages, {} faults: lost {lost}, doubled {doubled}, stuck {stuck}, \
             otherwise wrong {wrong}, unknown {unknown}, unknown and sent again {resent}",
            self.faults.values().sum::<u64>()
        )
    }

    pub(crate) fn write(&self, directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        let text = serde_json::to_string_pretty(&self.json()).unwrap();
        std::fs::write(directory.join("books.json"), text + "\n").unwrap();
        std::fs::write(directory.join("table.md"), self.table()).unwrap();
    }

    fn json(&self) -> Value {
        let faults: BTreeMap<&str, u64> =
            self.faults.iter().map(|(what, count)| (what.kind().name, *count)).collect();
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        json!({
            "schedules": self.all.schedules,
            "messages": self.all.messages,
            "lost": self.all.lost,
            "doubled": self.all.doubled,
            "stuck": self.all.stuck,
            "unknown": self.all.unknown,
            "wrong": self.all.wrong,
            "resent_after_unknown": self.all.resent,
            "accepted_by_the_gateway": self.accepted,
            "commits_in_doubt": self.in_doubt,
            "faults": self.faults.values().sum::<u64>(),
            "faults_by_kind": faults,
            "max_rss_mb": self.peak_kb.div_ceil(1000),
            "takeover_ms": spread(&self.takeovers_ms),
            "takeover_beyond_lease_ms": spread(&self.beyond_lease_ms),
            "copies_held_back": self.copies_held,
            "first_send_after_failover_ms": spread(&self.failovers_ms),
            "lost_with_a_primary": self.lost_with_primary,
            "set_aside_after_failovers": self.set_aside,
            "first_send_after_restart_ms": spread(&self.first_sends_ms),
            "slowest_settle_ms": self.slowest_settle_ms,
            "left_out": self.left_out,
            "bad_seeds": self.bad,
            "seeds": seeds,
        })
    }

    fn table(&self) -> String {
        let mut text = String::from(
            "| Faults | Schedules | Messages | Faults struck | Lost | Doubled | Stuck | Unknown |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for family in FAMILIES {
            let sums = self.families.get(&family).cloned().unwrap_or_default();
            let struck = KINDS.iter().filter(|kind| kind.family == family);
            let struck = struck.filter_map(|kind| self.faults.get(&kind.what)).sum();
            line(&mut text, family.name(), &sums, struck);
        }
        line(&mut text, "**all**", &self.all, self.faults.values().sum());
        text.push_str("\nA schedule with faults of several families counts in each of their lines, and once in the last.\n");
        text
    }
}

fn line(text: &mut String, name: &str, sums: &Sums, struck: u64) {
    let Sums { schedules, messages, lost, doubled, stuck, unknown, resent, .. } = sums;
    let unknown = unknown + resent;
    let _ = writeln!(
        text,
        "| {name} | {schedules} | {messages} | {struck} | {lost} | {doubled} | {stuck} | {unknown} |"
    );
}

/// Least, middle and greatest.
fn spread<T: Copy + Ord + Into<serde_json::Number>>(samples: &[T]) -> Value {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else { return Value::Null };
    let number = |sample: T| Value::Number(sample.into());
    let middle = number(sorted[sorted.len() / 2]);
    json!({"samples": sorted.len(), "least": number(*least), "middle": middle, "most": number(*most)})
}
