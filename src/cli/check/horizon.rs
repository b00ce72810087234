//! What pins the database's xmin horizon: as long as somebody may still look at an old state, dead rows of the queue stay,
//! and each look at it walks over them. And whether the database's clock and ours agree.

use crate::cli::check::Finding;
use crate::cli::span;
use crate::hop::certificate::time;
use crate::store::Store;
use crate::store::inspect::{Pin, PinKind, Server};

/// A transaction that is open for longer is nobody's ordinary work.
const OLD_SECONDS: f64 = 300.0;
/// The same where no time is known: so many transactions have begun since.
const OLD_TRANSACTIONS: i64 = 100_000;
/// Clocks that differ by more mislead people who compare logs, and `send_after` as applications write it.
const CLOCKS_DIFFER: f64 = 5.0;

pub(super) async fn check(store: &Store) -> Finding {
    const NAME: &str = "xmin horizon";
    let pins = match store.pins().await {
        Ok(pins) => pins,
        Err(error) => return super::database::unexpected(NAME, &error),
    };
    let old: Vec<&Pin> = pins.iter().filter(|pin| is_old(pin)).collect();
    if old.is_empty() {
        return Finding::ok(NAME, "nothing old keeps VACUUM from its work");
    }
    let detail: Vec<String> = old.iter().map(|pin| told(pin)).collect();
    let mut advice: Vec<String> = old.iter().map(|pin| remedy(pin)).collect();
    advice.dedup();
    let mut finding = Finding::warning(
        NAME,
        format!("VACUUM cannot remove rows that died since: {}", detail.join("; ")),
        advice.join("; "),
    );
    finding.problem = Some("xmin_pinned");
    finding
}

fn is_old(pin: &Pin) -> bool {
    match pin.seconds {
        Some(seconds) => seconds > OLD_SECONDS,
        None => pin.transactions > OLD_TRANSACTIONS,
    }
}

fn told(pin: &Pin) -> String {
    let Pin { name, about, transactions, .. } = pin;
    let what = match pin.kind {
        PinKind::Session => "transaction of process",
        PinKind::Standby => "standby",
        PinKind::Prepared => "prepared transaction",
        PinKind::UsedSlot => "standby at the replication slot",
        PinKind::Slot | PinKind::CatalogSlot => "replication slot",
    };
    let only = if pin.kind == PinKind::CatalogSlot { ", rows of the system catalogs only" } else { "" };
    let age = pin.seconds.map(|seconds| format!("for {}, ", span(seconds))).unwrap_or_default();
    format!("{what} {name} ({about}; {age}{transactions} transactions old{only})")
}

fn remedy(pin: &Pin) -> String {
    let quoted = pin.name.replace('\'', "''");
    match pin.kind {
        PinKind::Session => format!(
            "end it where it was begun, or: SELECT pg_terminate_backend({quoted}); idle_in_transaction_session_timeout keeps it from coming back"
        ),
        PinKind::Standby => format!(
            "look for long queries on the standby {}; without hot_standby_feedback it holds nothing back here",
            pin.name
        ),
        PinKind::Prepared => format!(
            "whoever prepared it must finish it: COMMIT PREPARED '{quoted}'; or ROLLBACK PREPARED '{quoted}';"
        ),
        PinKind::UsedSlot => format!(
            "look for long queries on the standby that uses the slot {}; without hot_standby_feedback it holds nothing back here",
            pin.name
        ),
        PinKind::Slot => format!(
            "if whoever used it is gone: SELECT pg_drop_replication_slot('{quoted}'); it also keeps WAL until the disk is full"
        ),
        PinKind::CatalogSlot => format!(
            "whoever reads it has fallen behind; if they are gone: SELECT pg_drop_replication_slot('{quoted}'); it also keeps WAL until the disk is full"
        ),
    }
}

/// How the database's clock differs from ours: its time, asked for between two looks at ours.
pub(super) fn clock(server: &Server, before: f64, after: f64) -> Finding {
    const NAME: &str = "clock";
    let off = if server.clock < before { server.clock - before } else { (server.clock - after).max(0.0) };
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
    let shown = |seconds: f64| time(seconds as i64);
    if off.abs() <= CLOCKS_DIFFER {
        return Finding::ok(NAME, "this host and the database agree");
    }
    let direction = if off > 0.0 { "behind" } else { "ahead of" };
    let mut finding = Finding::warning(
        NAME,
        format!(
            "this host is {} {direction} the database: {} here, {} there",
            span(off.abs().round()),
            shown(after),
            shown(server.clock)
        ),
        "let both follow a time server: `timedatectl` on each shows whether they do. Messages are due by the database's \
         clock; certificates are judged by this host's",
    );
    finding.problem = Some("wrong_clock");
    finding
}

#[cfg(test)]
mod tests {
    use super::{is_old, remedy, told};
    use crate::store::inspect::{Pin, PinKind};

    fn pin(kind: PinKind, seconds: Option<f64>, transactions: i64) -> Pin {
        Pin { kind, name: "it's".to_owned(), about: "user app".to_owned(), transactions, seconds }
    }

    #[test]
    fn what_is_old_is_told_by_time_or_by_transactions() {
        assert!(!is_old(&pin(PinKind::Session, Some(200.0), 9_000_000)));
        assert!(is_old(&pin(PinKind::Session, Some(400.0), 1)));
        assert!(!is_old(&pin(PinKind::Slot, None, 99_000)));
        assert!(is_old(&pin(PinKind::Slot, None, 101_000)));
    }

    #[test]
    fn each_kind_is_named_with_what_to_do_about_it() {
        for (kind, named, command) in [
            (PinKind::Session, "process it's (user app; for 6m 40s, 7", "pg_terminate_backend"),
            (PinKind::Standby, "standby it's", "hot_standby_feedback"),
            (PinKind::Prepared, "prepared transaction it's", "ROLLBACK PREPARED 'it''s';"),
            (PinKind::Slot, "replication slot it's", "pg_drop_replication_slot('it''s');"),
            (PinKind::UsedSlot, "standby at the replication slot it's", "hot_standby_feedback"),
            (
                PinKind::CatalogSlot,
                "7 transactions old, rows of the system catalogs only)",
                "pg_drop_replication_slot(",
            ),
        ] {
            let pin = pin(kind, Some(400.0), 7);
            assert!(told(&pin).contains(named), "{}", told(&pin));
            assert!(remedy(&pin).contains(command), "{}", remedy(&pin));
        }
    }
}
