//! What the system says of this process, under the names that Prometheus's own libraries give it.

use std::fs;

use crate::metrics::{Kind, Page};

/// A thing that cannot be read is left out.
pub(super) fn write(page: &mut Page) {
    let Some(stat) = Stat::read() else { return };
    page.family("process_cpu_seconds_total", Kind::Counter, "Processor time used, in user and system mode.");
    page.sample(&[], stat.cpu_seconds);
    page.family("process_resident_memory_bytes", Kind::Gauge, "Memory in use.");
    page.sample(&[], stat.resident_bytes);
    page.family("process_virtual_memory_bytes", Kind::Gauge, "Address space in use.");
    page.sample(&[], stat.virtual_bytes);
    if let Some(start) = stat.start_seconds {
        page.family(
            "process_start_time_seconds",
            Kind::Gauge,
            "When the process started, in seconds since 1970.",
        );
        page.sample(&[], start);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        page.family("process_open_fds", Kind::Gauge, "Open file descriptors.");
        page.sample(&[], open.count());
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit {
        page.family("process_max_fds", Kind::Gauge, "Most file descriptors that may be open.");
        page.sample(&[], limit);
    }
}

struct Stat {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    start_seconds: Option<f64>,
}

impl Stat {
    fn read() -> Option<Stat> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        let booted = fs::read_to_string("/proc/stat").ok();
        Stat::parse(&text, booted.as_deref())
    }

    /// The fields are counted from 1 in proc(5); the second is a name that may hold anything, and ends with `)`.
    fn parse(stat: &str, booted: Option<&str>) -> Option<Stat> {
        let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| rest.get(number - 3)?.parse::<u32>().ok().map(f64::from);
        let whole = |number: usize| rest.get(number - 3)?.parse::<u64>().ok();
        let ticks = f64::from(u32::try_from(rustix::param::clock_ticks_per_second()).ok()?);
        let page = u64::try_from(rustix::param::page_size()).ok()?;
        let booted = booted.and_then(|text| text.lines().find_map(|line| line.strip_prefix("btime ")));
        let booted = booted.and_then(|seconds| seconds.trim().parse::<f64>().ok());
        Some(Stat {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            virtual_bytes: whole(23)?,
            resident_bytes: whole(24)? * page,
            // In ticks since the boot.
            start_seconds: booted.and_then(|booted| {
                let ticks_since = rest.get(22 - 3)?.parse::<f64>().ok()?;
                Some(booted + ticks_since / ticks)
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Stat;

    #[test]
    fn this_process_is_read_as_it_is() {
        let stat = Stat::read().unwrap();
        assert!(stat.resident_bytes > 100_000 && stat.virtual_bytes > stat.resident_bytes);
        assert!(stat.start_seconds.unwrap() > 1_000_000_000.0);
        assert!(stat.cpu_seconds >= 0.0);
    }

    #[test]
    fn a_name_may_hold_anything() {
        let line = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 12345 1000000 25 0";
        let stat = Stat::parse(line, Some("cpu 1\nbtime 1700000000\n")).unwrap();
        assert!((stat.cpu_seconds - 3.0).abs() < 1e-9, "{}", stat.cpu_seconds);
        assert_eq!(stat.virtual_bytes, 1_000_000);
        assert!((stat.start_seconds.unwrap() - 1_700_000_123.45).abs() < 1e-3);
        assert!(Stat::parse("7 (a", None).is_none() && Stat::parse("7 (a) S 1", None).is_none());
    }
}
