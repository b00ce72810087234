//! Tests the test: that a seed means one schedule, that a short run has every family, and that books which are wrong are
//! found to be wrong.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::books::{Books, Breach, GivenUp, Row, Sent, compare};
use crate::clients::{Cancel, Fate, Wish, Written};
use crate::run::play;
use crate::runtime;
use crate::sabotage::Sabotage;
use crate::schedule::{FAMILIES, Shape, draw};
use crate::template::Stage;

/// As many schedules as the short form plays.
const SHORT_FORM: u64 = 20;

pub(crate) fn passes() -> bool {
    let mut wrong = Vec::new();
    check_schedules(&mut wrong);
    check_comparison(&mut wrong);
    check_sabotage(&mut wrong);
    for sentence in &wrong {
        eprintln!("chaos: the test itself is wrong: {sentence}");
    }
    println!("chaos: self-check: {} wrong", wrong.len());
    wrong.is_empty()
}

fn check_schedules(wrong: &mut Vec<String>) {
    let shape = Shape::default();
    let mut different = BTreeSet::new();
    for seed in 0..500 {
        let schedule = draw(seed, &shape);
        if schedule != draw(seed, &shape) {
            wrong.push(format!("seed {seed} gives two schedules"));
        }
        different.insert(format!("{:?}", schedule.events));
        let families: BTreeSet<_> =
            (seed..seed + SHORT_FORM).flat_map(|seed| draw(seed, &shape).families).collect();
        if families.len() != FAMILIES.len() {
            wrong.push(format!("{SHORT_FORM} schedules from seed {seed} have only {families:?}"));
        }
    }
    if different.len() != 500 {
        wrong.push(format!("500 seeds give {} schedules", different.len()));
    }
}

/// One message, in order.
fn in_order() -> Books {
    let token = "#0.1#".to_owned();
    let written = Written {
        tokens: vec![token.clone()],
        id: Some(1),
        fate: Fate::Acknowledged,
        wish: Wish::Sent,
        cancel: Cancel::No,
        committed_at: Instant::now(),
        cancelled_at: Instant::now(),
    };
    let row = Row {
        id: 1,
        token: token.clone(),
        status: "delivered".to_owned(),
        held: false,
        set_aside: false,
        due: true,
        attempts: 1,
        reference: Some("1-00000000-1".to_owned()),
        error: None,
    };
    let sent = Sent {
        token,
        reference: "1-00000000-1".to_owned(),
        stage: "arrived".to_owned(),
        via: "v2".to_owned(),
        accepted_at: String::new(),
    };
    Books {
        written: vec![(0, written)],
        rows: vec![row],
        sent: vec![sent],
        receipts_came: true,
        ..Books::default()
    }
}

fn set_aside(books: &mut Books) {
    books.rows[0].status = "queued".to_owned();
    books.rows[0].held = true;
    books.rows[0].set_aside = true;
    books.receipts_came = false;
}

/// As through Kannel without receipts.
fn nameless(books: &mut Books) {
    books.receipts_came = false;
    for sent in &mut books.sent {
        sent.via = "kannel".to_owned();
        sent.reference = String::new();
    }
}

fn check_comparison(wrong: &mut Vec<String>) {
    type Falsify = fn(&mut Books);
    let cases: [(&str, Option<Breach>, Falsify); 23] = [
        ("books in order", None, |_| {}),
        ("a row is gone", Some(Breach::Lost), |books| books.rows.clear()),
        ("it was never sent", Some(Breach::Lost), |books| books.sent.clear()),
        ("it was sent twice", Some(Breach::Doubled), |books| books.sent.push(books.sent[0].clone())),
        ("it is due and not sent", Some(Breach::Stuck), |books| {
            books.sent.clear();
            books.rows[0].status = "queued".to_owned();
        }),
        ("a wave stays open", Some(Breach::Stuck), |books| books.open_waves.push("(1,1)".to_owned())),
        ("a state that there is not", Some(Breach::Stuck), |books| {
            books.rows[0].status = "sending".to_owned();
        }),
        ("sent and failed", Some(Breach::Wrong), |books| books.rows[0].status = "failed".to_owned()),
        ("sent and cancelled", Some(Breach::Wrong), |books| books.rows[0].status = "cancelled".to_owned()),
        ("sent and queued again", Some(Breach::Wrong), |books| books.rows[0].status = "queued".to_owned()),
        ("its receipt changed nothing", Some(Breach::Wrong), |books| {
            books.rows[0].status = "accepted".to_owned();
        }),
        ("a receipt that nobody takes", Some(Breach::Stuck), |books| {
            books.callbacks_waiting = 1;
            books.receipts_came = false;
        }),
        ("rolled back and sent", Some(Breach::Wrong), |books| books.written[0].1.fate = Fate::RolledBack),
        ("a row of nobody", Some(Breach::Wrong), |books| books.written.clear()),
        ("cancelled in time and sent", Some(Breach::Wrong), |books| {
            books.written[0].1.wish = Wish::Scheduled;
            books.written[0].1.cancel = Cancel::Acknowledged;
        }),
        ("given up as unknown, sent, and expired", None, |books| {
            books.given_up.push(GivenUp { id: 1, reference: books.rows[0].reference.clone() });
            books.rows[0].status = "expired".to_owned();
            books.written[0].1.wish = Wish::SentOrExpired;
            books.receipts_came = false;
            books.most_unknown = 1;
        }),
        ("the same through a gateway that is given no reference", None, |books| {
            books.given_up.push(GivenUp { id: 1, reference: books.rows[0].reference.clone() });
            books.rows[0].status = "expired".to_owned();
            books.written[0].1.wish = Wish::SentOrExpired;
            nameless(books);
            books.most_unknown = 1;
        }),
        ("through such a gateway sent, expired, and never given up", Some(Breach::Wrong), |books| {
            books.rows[0].status = "expired".to_owned();
            books.written[0].1.wish = Wish::SentOrExpired;
            nameless(books);
        }),
        ("lost with its primary", None, |books| {
            books.written[0].1.fate = Fate::LostPerhaps;
            books.rows.clear();
        }),
        ("sent, and set aside after a failover that lost commits", None, |books| {
            set_aside(books);
            books.commits_were_lost = true;
        }),
        ("sent, and set aside although nothing was lost", Some(Breach::Wrong), set_aside),
        ("sent, and held for another reason", Some(Breach::Wrong), |books| {
            set_aside(books);
            books.rows[0].set_aside = false;
            books.commits_were_lost = true;
        }),
        ("more unknown than faults", Some(Breach::Wrong), |books| {
            books.rows[0].status = "unknown".to_owned();
            books.receipts_came = false;
        }),
    ];
    for (name, expected, falsify) in cases {
        let mut books = in_order();
        falsify(&mut books);
        let found: Vec<Breach> = compare(&books).findings.iter().map(|finding| finding.breach).collect();
        let right = expected.map_or(found.is_empty(), |breach| found.contains(&breach));
        if !right {
            wrong.push(format!("{name}: expected {expected:?}, found {found:?}"));
        }
    }
}

/// Plays schedules without faults, falsifies what they leave behind, and compares.
fn check_sabotage(wrong: &mut Vec<String>) {
    let runtime = runtime();
    let stage = Arc::new(runtime.block_on(Stage::make()));
    let shape = Shape { only: Some("none".to_owned()), messages: Some(150), log_filter: None };
    let every = [None, Some(Sabotage::Lost), Some(Sabotage::Doubled), Some(Sabotage::Stuck)];
    for (seed, sabotage) in (0..).zip(every) {
        let directory = tempfile::tempdir().unwrap();
        let schedule = draw(seed, &shape);
        let outcome = runtime.block_on(play(schedule, &stage, directory.path(), sabotage));
        let found: Vec<Breach> = outcome.comparison.findings.iter().map(|finding| finding.breach).collect();
        let expected: Vec<Breach> = sabotage.map(Sabotage::breach).into_iter().collect();
        if found != expected {
            wrong.push(format!("{sabotage:?}: found {:?}", outcome.comparison.findings));
        }
    }
}
