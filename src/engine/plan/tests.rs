//! Examples, what reading costs, and `model`: random histories against a table in memory.

mod cost;
mod model;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::compose::Draft;
use crate::engine::plan::{MOST_SET_ASIDE, PageEnd, Plan, Read, ReadKind, Ready};
use crate::message::{Encoding, Lane, MessageId, Position, RowVersion};

const CHEAP: Duration = Duration::from_micros(300);

fn plan(gateways: usize, limit: usize, lookahead: usize) -> Plan {
    let gateways: Vec<(Arc<str>, usize)> =
        (0..gateways).map(|index| (Arc::from(format!("g{index}")), limit)).collect();
    Plan::new(&gateways, lookahead)
}

fn at(millis: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(millis)
}

fn place(us: i64, id: i64) -> Position {
    Position { send_after_us: us, id: MessageId(id) }
}

/// A row whose place is its id.
pub(super) fn ready(lane: Lane, id: i64) -> Ready {
    ready_at(lane, place(id, id), RowVersion(1))
}

fn ready_at(lane: Lane, position: Position, version: RowVersion) -> Ready {
    let draft = Draft {
        recipient: "353870000000".to_owned(),
        text: "hello".to_owned(),
        sender: "Shop".to_owned(),
        encoding: Encoding::Gsm7,
        segments: 1,
        transactional: false,
    };
    Ready {
        id: position.id,
        version,
        lane,
        position,
        row_made: crate::message::CreatedAt(0),
        attempts: 0,
        draft,
        alike: 0,
    }
}

fn reads(plan: &mut Plan, now: Moment) -> Vec<Read> {
    Lane::ALL.into_iter().flat_map(|lane| reads_of(plan, lane, now)).collect()
}

fn reads_of(plan: &mut Plan, lane: Lane, now: Moment) -> Vec<Read> {
    std::iter::from_fn(|| plan.next_read(lane, now)).collect()
}

/// The page holds these rows, all for gateway 0.
fn page(plan: &mut Plan, read: &Read, ids: &[i64], now: Moment) {
    for id in ids {
        if !plan.is_known(MessageId(*id), RowVersion(1)) {
            plan.offer(0, ready(read.lane, *id));
        }
    }
    let last = ids.last().map(|id| place(*id, *id));
    plan.page_read(read, PageEnd { last, full: ids.len() >= read.limit, cost: CHEAP }, now);
}

/// Answers every read with nothing until none is left.
fn drain_reads(plan: &mut Plan, now: Moment) -> usize {
    let mut count = 0;
    loop {
        let all = reads(plan, now);
        if all.is_empty() {
            return count;
        }
        count += all.len();
        assert!(count < 100, "reads without end");
        for read in all {
            page(plan, &read, &[], now);
        }
    }
}

#[test]
fn while_it_is_cheap_every_wake_reads_from_the_start_once() {
    let mut plan = plan(1, 8, 2000);
    for n in 0..100 {
        let now = at(20 * n);
        plan.wake();
        let all = reads(&mut plan, now);
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|read| read.kind == ReadKind::Whole), "{all:?}");
        for read in all {
            page(&mut plan, &read, &[], now);
        }
        assert_eq!(reads(&mut plan, now).len(), 0);
        assert!(plan.is_idle());
        assert_eq!(plan.next_at(now), None);
    }
}

#[test]
fn what_is_found_ahead_leaves_before_looks_behind_take_the_cores_but_never_keeps_them_off() {
    let mut plan = plan(1, 8, 2000);
    // Reading from the start is cheap, and not quick.
    let slow = Duration::from_millis(1);
    let answer = |plan: &mut Plan, read: &Read, found: Option<i64>, now| {
        let last = found.map(|id| place(id, id));
        plan.page_read(read, PageEnd { last, full: false, cost: slow }, now);
    };
    let first = reads_of(&mut plan, Lane::Normal, at(0)).remove(0);
    answer(&mut plan, &first, Some(1), at(0));

    plan.wake();
    let ahead = reads_of(&mut plan, Lane::Normal, at(1000)).remove(0);
    assert_eq!(ahead.kind, ReadKind::Forward);
    answer(&mut plan, &ahead, Some(2), at(1001));
    assert!(reads_of(&mut plan, Lane::Normal, at(1002)).is_empty(), "the row that was found is on its way");
    assert_eq!(plan.next_at(at(1002)), Some(at(1005)));
    let behind = reads_of(&mut plan, Lane::Normal, at(1005)).remove(0);
    assert_eq!((behind.kind, behind.after), (ReadKind::Behind(5), Position::START));
    answer(&mut plan, &behind, None, at(1006));

    // Rows come every millisecond.
    let mut behind = 0;
    for now in 2000..2300 {
        plan.wake();
        for read in reads_of(&mut plan, Lane::Normal, at(now)) {
            let ahead = read.kind == ReadKind::Forward;
            behind += usize::from(!ahead);
            answer(&mut plan, &read, ahead.then_some(i64::try_from(now).unwrap()), at(now));
        }
    }
    // Each rests for twenty milliseconds.
    assert!((10..=15).contains(&behind), "{behind} looks behind in 300 ms");
}

#[test]
fn a_ring_during_a_read_from_the_start_is_not_lost() {
    let mut plan = plan(1, 8, 2000);
    let first = reads_of(&mut plan, Lane::Normal, at(0)).remove(0);
    page(&mut plan, &first, &[10], at(0));
    plan.wake();
    let whole = reads_of(&mut plan, Lane::Normal, at(20)).remove(0);
    assert_eq!(whole.kind, ReadKind::Whole);
    // Its snapshot was taken; a row behind the watermark is committed and rings.
    plan.wake();
    page(&mut plan, &whole, &[10], at(21));
    let mut now = at(21);
    for _ in 0..4 {
        for read in reads_of(&mut plan, Lane::Normal, now) {
            if read.after == Position::START {
                return;
            }
            page(&mut plan, &read, &[], now);
        }
        let next = plan.next_at(now).expect("the look behind is still wanted");
        now = now.max(next);
    }
    panic!("nothing looked behind the watermark after the ring");
}

#[test]
fn a_look_behind_that_failed_is_made_up_for() {
    let mut plan = plan(1, 8, 2000);
    let first = reads_of(&mut plan, Lane::Normal, at(0)).remove(0);
    page(&mut plan, &first, &[10], at(0));
    plan.wake();
    let whole = reads_of(&mut plan, Lane::Normal, at(20)).remove(0);
    assert_eq!(whole.kind, ReadKind::Whole);
    // With so many rows held, the next look is not from the start to the end.
    for id in 1000..1300 {
        plan.offer(0, ready(Lane::Normal, id));
    }
    plan.read_failed(&whole);
    let forward = reads_of(&mut plan, Lane::Normal, at(40)).remove(0);
    assert_eq!(forward.kind, ReadKind::Forward);
    page(&mut plan, &forward, &[], at(40));
    let behind = reads_of(&mut plan, Lane::Normal, at(40));
    assert!(behind.iter().any(|read| read.after == Position::START), "{behind:?}");
}

#[test]
fn a_row_that_moved_while_its_wave_was_committed_is_looked_for_everywhere() {
    let mut plan = plan(1, 8, 2000);
    let first = reads_of(&mut plan, Lane::Normal, at(0)).remove(0);
    page(&mut plan, &first, &[10], at(0));
    drain_reads(&mut plan, at(0));
    let taken = plan.take_for_wave(0, 8, None);
    // Moved to place 5: the ring for it is answered by a read that passes the row by, since it is known.
    plan.wake();
    for read in reads(&mut plan, at(50)) {
        assert!(plan.is_known(MessageId(10), RowVersion(2)));
        page(&mut plan, &read, &[], at(50));
    }
    drain_reads(&mut plan, at(100));
    plan.not_in_wave(0, &taken[0]);
    let all = reads(&mut plan, at(150));
    assert!(all.iter().any(|read| read.lane == Lane::Normal && read.after == Position::START));
    assert!(all.iter().any(|read| read.lane == Lane::Urgent), "or in another lane");
}

#[test]
fn rows_ahead_that_were_left_out_for_want_of_room_are_read_without_a_wake() {
    let mut plan = plan(2, 10, 10);
    let whole = reads_of(&mut plan, Lane::Normal, at(0)).remove(0);
    page(&mut plan, &whole, &[1, 2, 3, 4, 5], at(0));
    let forward = reads_of(&mut plan, Lane::Normal, at(0)).remove(0);
    page(&mut plan, &forward, &[6, 7, 8, 9, 10], at(0));
    // g0 is full, and the rest of the table is its own.
    loop {
        let all = reads_of(&mut plan, Lane::Normal, at(20));
        if all.is_empty() {
            break;
        }
        for read in all {
            assert_eq!(read.without_gateways, ["g0"]);
            page(&mut plan, &read, &[], at(20));
        }
    }
    plan.take_for_wave(0, 10, None);
    let mut found = false;
    for _ in 0..3 {
        for read in reads_of(&mut plan, Lane::Normal, at(20)) {
            assert!(read.without_gateways.is_empty());
            found |= read.after == place(10, 10) && read.up_to == Position::END;
            page(&mut plan, &read, &[], at(20));
        }
    }
    assert!(found, "the rows behind the tenth were never asked for");
}

#[test]
fn a_read_from_before_the_start_over_does_not_move_the_watermark() {
    let mut plan = plan(1, 8, 2000);
    let old = reads_of(&mut plan, Lane::Normal, at(0)).remove(0);
    plan.start_over();
    plan.wake();
    page(&mut plan, &old, &[7, 8, 9], at(1));
    let new = reads_of(&mut plan, Lane::Normal, at(1));
    assert!(new.iter().any(|read| read.after == Position::START), "{new:?}");
}

#[test]
fn places_that_become_free_one_by_one_are_shared_between_normal_and_bulk() {
    let mut plan = plan(1, 8, 2000);
    for n in 0..400 {
        plan.offer(0, ready(Lane::Normal, n));
        plan.offer(0, ready(Lane::Bulk, 1000 + n));
    }
    let mut bulk = 0;
    for _ in 0..400 {
        let taken = plan.take_for_wave(0, 1, None);
        assert_eq!(taken.len(), 1);
        bulk += usize::from(taken[0].lane == Lane::Bulk);
        plan.recorded(taken[0].id, None);
    }
    assert_eq!(bulk, 100);
}

#[test]
fn urgent_goes_first_and_finds_a_place_among_a_million_others() {
    let mut plan = plan(1, 8, 2000);
    for n in 0..100 {
        plan.offer(0, ready(Lane::Normal, n));
        plan.offer(0, ready(Lane::Bulk, 1000 + n));
    }
    let taken = plan.take_for_wave(0, plan.room_for_wave(0), None);
    assert_eq!(taken.len(), 7);
    assert!(plan.take_for_wave(0, plan.room_for_wave(0), None).is_empty());
    plan.offer(0, ready(Lane::Urgent, 5000));
    let taken = plan.take_for_wave(0, plan.room_for_wave(0), None);
    assert_eq!(taken.iter().map(|ready| ready.id).collect::<Vec<_>>(), [MessageId(5000)]);
}

#[test]
fn poison_in_bulk_stops_bulk_only_and_wants_no_timer_meanwhile() {
    let mut plan = plan(1, 8, 2000);
    drain_reads(&mut plan, at(0));
    for id in 0..i64::try_from(MOST_SET_ASIDE).unwrap() {
        plan.set_aside(MessageId(id), Lane::Bulk, RowVersion(1));
    }
    plan.wake();
    let all = reads(&mut plan, at(20));
    let lanes: Vec<Lane> = all.iter().map(|read| read.lane).collect();
    assert_eq!(lanes, [Lane::Urgent, Lane::Normal]);
    for read in all {
        page(&mut plan, &read, &[], at(20));
    }
    drain_reads(&mut plan, at(1000));
    assert_eq!(plan.next_at(at(1000)), None, "a timer for what cannot be read would spin");
    plan.recorded(MessageId(0), None);
    assert_eq!(reads(&mut plan, at(1000)).len(), 1);
}

#[test]
fn with_every_gateway_closed_nothing_is_read_and_no_timer_is_set() {
    let mut plan = plan(2, 8, 2000);
    plan.close(0);
    plan.close(1);
    plan.wake();
    assert_eq!(reads(&mut plan, at(0)).len(), 0);
    assert_eq!(plan.next_at(at(0)), None);
    plan.open(1);
    assert_eq!(reads(&mut plan, at(0)).len(), 3);
}

#[test]
fn an_edited_row_takes_the_place_of_the_one_that_waits() {
    let mut plan = plan(1, 8, 2000);
    plan.offer(0, ready(Lane::Bulk, 1));
    assert!(plan.is_known(MessageId(1), RowVersion(1)));
    assert!(!plan.is_known(MessageId(1), RowVersion(2)));
    plan.offer(0, ready_at(Lane::Urgent, place(1, 1), RowVersion(2)));
    let taken = plan.take_for_wave(0, 8, None);
    assert_eq!(taken.iter().map(|ready| ready.version).collect::<Vec<_>>(), [RowVersion(2)]);
    assert!(!plan.has_ready(0));
}

#[test]
fn gateways_that_want_their_rows_again_are_served_by_one_page() {
    let mut plan = plan(2, 8, 2000);
    let first = reads_of(&mut plan, Lane::Normal, at(0)).remove(0);
    page(&mut plan, &first, &[1, 2, 3], at(0));
    plan.offer(1, ready(Lane::Normal, 4));
    drain_reads(&mut plan, at(0));
    plan.close(0);
    plan.close(1);
    plan.open(0);
    plan.open(1);
    let all = reads_of(&mut plan, Lane::Normal, at(0));
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].kind, all[0].after), (ReadKind::Restart, place(1, 0)));
    assert_eq!(all[0].restarts.len(), 2);
}

#[test]
fn a_page_that_was_under_way_shows_nothing_new_of_a_row_whose_end_was_recorded_meanwhile() {
    let mut plan = plan(1, 8, 2000);
    let first = reads_of(&mut plan, Lane::Normal, at(0)).remove(0);
    page(&mut plan, &first, &[1, 2], at(0));
    assert_eq!(plan.take_for_wave(0, 8, None).len(), 2);
    plan.wake();
    // A later page of another lane ends first: what counts is the oldest that is under way.
    let seen_before = reads_of(&mut plan, Lane::Normal, at(20)).remove(0);
    plan.recorded(MessageId(1), None);
    let urgent = reads_of(&mut plan, Lane::Urgent, at(20)).remove(0);
    page(&mut plan, &urgent, &[], at(20));
    // Recorded as waiting again, and so to be taken.
    plan.recorded(MessageId(2), Some(place(2, 2)));
    assert!(plan.is_known(MessageId(1), RowVersion(1)));
    assert!(!plan.is_known(MessageId(1), RowVersion(2)), "somebody has queued it again");
    assert!(!plan.is_known(MessageId(2), RowVersion(1)));
    page(&mut plan, &seen_before, &[1], at(20));
    assert!(!plan.has_ready(0));
    // No page is left that could show it as it was.
    assert!(!plan.is_known(MessageId(1), RowVersion(1)));
}
