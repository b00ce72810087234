//! What processes cost, from `/proc`, and the one clock of all measurements.

use std::fmt;
use std::fs;
use std::ops::{Add, Sub};
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Moment {
        let now = clock_gettime(ClockId::Monotonic);
        Moment(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
    }

    /// The moment that a log wrote by the clock on the wall, as that clock stands now.
    pub(crate) fn of_log(time: &str) -> Option<Moment> {
        let written: jiff::Timestamp = time.parse().ok()?;
        let age = jiff::Timestamp::now().duration_since(written).unsigned_abs();
        Some(Moment(Moment::now().0.checked_sub(age)?))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, later: Duration) -> Moment {
        Moment(self.0 + later)
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// User and system time of a process with all its threads; with `children`, of those that it has waited for and of
/// those that live, as PostgreSQL's backends are.
pub(crate) fn cpu(pid: u32, children: bool) -> Duration {
    let mut ticks = Stat::of(pid).map_or(0, |stat| stat.own + if children { stat.reaped } else { 0 });
    if children {
        let all =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        ticks += all.filter_map(Stat::of).filter(|stat| stat.parent == pid).map(|stat| stat.own).sum::<u64>();
    }
    of_ticks(ticks)
}

/// User and system time of the threads of this process that have this name.
fn threads_cpu(name: &str) -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let named = tasks.filter(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    });
    let ticks = named.filter_map(|task| Stat::read(&task.path().join("stat"))).map(|stat| stat.own).sum();
    of_ticks(ticks)
}

/// Time that all cores together were busy and idle since the machine was started.
fn machine() -> (Duration, Duration) {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let line = text.lines().next().unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in the first two.
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).take(8).map(|field| field.parse().unwrap()).collect();
    let idle = ticks[3] + ticks[4];
    (of_ticks(ticks.iter().sum::<u64>() - idle), of_ticks(idle))
}

/// Whose CPU is measured as the client's.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whose {
    Process(u32),
    /// This process without its sink.
    Ourselves,
}

/// Runs beside a drain.
#[derive(Debug)]
pub(crate) struct Meter {
    server: u32,
    client: Whose,
    spent: Spent,
    machine: (Duration, Duration),
}

#[derive(Debug)]
struct Spent {
    postgres: Duration,
    client: Duration,
    sink: Duration,
}

impl Spent {
    fn until_now(server: u32, client: Whose) -> Spent {
        let sink = threads_cpu(crate::sink::THREAD);
        let client = match client {
            Whose::Process(pid) => cpu(pid, false),
            Whose::Ourselves => cpu(std::process::id(), false).saturating_sub(sink),
        };
        Spent { postgres: cpu(server, true), client, sink }
    }
}

/// What one message cost, in microseconds of CPU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Costs {
    pub(crate) postgres_us: f64,
    pub(crate) client_us: f64,
    pub(crate) sink_us: f64,
    /// How much of all cores' time somebody used, whoever it was.
    pub(crate) busy: f64,
}

impl Meter {
    pub(crate) fn start(server: u32, client: Whose) -> Meter {
        Meter { server, client, spent: Spent::until_now(server, client), machine: machine() }
    }

    pub(crate) fn stop(self, messages: u32) -> Costs {
        let machine = machine();
        let spent = Spent::until_now(self.server, self.client);
        let each = |after: Duration, before: Duration| {
            after.saturating_sub(before).as_secs_f64() * 1e6 / f64::from(messages)
        };
        let (busy, idle) = (machine.0 - self.machine.0, machine.1 - self.machine.1);
        Costs {
            postgres_us: each(spent.postgres, self.spent.postgres),
            client_us: each(spent.client, self.spent.client),
            sink_us: each(spent.sink, self.spent.sink),
            busy: busy.as_secs_f64() / (busy + idle).as_secs_f64(),
        }
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Costs { postgres_us, client_us, sink_us, busy } = self;
        let busy = busy * 100.0;
        write!(
            f,
            "{postgres_us:.1} PostgreSQL + {client_us:.1} client + {sink_us:.1} sink µs, {busy:.0} % busy"
        )
    }
}

fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

#[derive(Debug)]
struct Stat {
    parent: u32,
    own: u64,
    reaped: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        Stat::read(Path::new(&format!("/proc/{pid}/stat")))
    }

    fn read(path: &Path) -> Option<Stat> {
        let text = fs::read_to_string(path).ok()?;
        // The name in parentheses may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Stat {
            parent: u32::try_from(number(1)?).ok()?,
            own: number(11)? + number(12)?,
            reaped: number(13)? + number(14)?,
        })
    }
}

/// In milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A size in `/proc/<pid>/status`, such as `VmHWM`, in MB.
pub(crate) fn memory_mb(pid: u32, key: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kb: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    kb / 1024.0
}
