//! When `Wakefulness` looks, sleeps and tells the register, on a clock that only the test moves.

use std::time::Duration;

use crate::clock::Moment;
use crate::engine::wake::{Falling, WakeAction, Wakefulness};

const POLL: Duration = Duration::from_secs(5);
const BELIEVED: Duration = Duration::from_secs(15);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What was done, and when.
struct Run {
    wakefulness: Wakefulness,
    now: Moment,
    looks: Vec<Moment>,
    polls: Vec<Moment>,
    awake: Vec<Moment>,
    asleep: Vec<Moment>,
    falling: Vec<(Moment, Falling)>,
    steps: usize,
}

impl Run {
    fn new(doorbell: bool, ears: bool) -> Run {
        let now = Moment::ZERO + Duration::from_secs(100);
        let mut wakefulness = Wakefulness::new(doorbell, POLL, now);
        wakefulness.set_ears(ears, now);
        Run {
            wakefulness,
            now,
            looks: Vec::new(),
            polls: Vec::new(),
            awake: Vec::new(),
            asleep: Vec::new(),
            falling: Vec::new(),
            steps: 0,
        }
    }

    fn act(&mut self) {
        self.steps += 1;
        for action in self.wakefulness.act(self.now) {
            match action {
                WakeAction::Look => self.looks.push(self.now),
                WakeAction::Poll => {
                    self.polls.push(self.now);
                    self.looks.push(self.now);
                }
                WakeAction::RegisterAwake(believed) => {
                    assert_eq!(believed, BELIEVED);
                    self.awake.push(self.now);
                }
                WakeAction::RegisterAsleep(believed) => {
                    assert_eq!(believed, BELIEVED);
                    self.asleep.push(self.now);
                }
                WakeAction::FallAsleep(falling) => self.falling.push((self.now, falling)),
            }
        }
    }

    /// As the engine does: acts, then waits until `next_at`, a millisecond at least.
    fn go(&mut self, length: Duration) {
        let end = self.now + length;
        loop {
            self.act();
            let next = self.wakefulness.next_at().max(self.now + ms(1));
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
        }
    }

    fn fall_asleep(&mut self) {
        self.go(ms(400));
        let (_, falling) = self.falling.last().unwrap().clone();
        self.wakefulness.fell_asleep(&falling, true);
        self.act();
    }

    fn longest_pause_between_looks(&self) -> Duration {
        self.looks.windows(2).map(|two| two[1].since(two[0])).max().unwrap()
    }
}

#[test]
fn sleep_needs_ears_and_a_doorbell() {
    for (doorbell, ears) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut run = Run::new(doorbell, ears);
        run.go(Duration::from_secs(20));
        assert_eq!(!run.falling.is_empty(), doorbell && ears, "doorbell {doorbell}, ears {ears}");
    }
}

#[test]
fn it_stays_awake_while_many_rows_come() {
    let mut run = Run::new(true, true);
    for _ in 0..1000 {
        run.wakefulness.found(2, false, run.now);
        run.go(ms(10));
    }
    assert!(run.falling.is_empty());
    assert!(run.longest_pause_between_looks() <= ms(3), "{:?}", run.longest_pause_between_looks());
}

#[test]
fn rows_that_come_one_by_one_let_it_fall_asleep() {
    let mut run = Run::new(true, true);
    for _ in 0..10 {
        run.wakefulness.found(1, false, run.now);
        run.go(ms(50));
    }
    assert_eq!(run.falling.len(), 1, "being rung for each is sooner than the next look");
}

#[test]
fn it_looks_less_often_while_enough_waits_to_be_sent() {
    let mut run = Run::new(true, true);
    for _ in 0..100 {
        run.wakefulness.found(2, true, run.now);
        run.go(ms(10));
    }
    assert!((95..=105).contains(&run.looks.len()), "{} looks in a second", run.looks.len());
}

#[test]
fn the_poll_never_stops_in_any_mode() {
    let fall = |run: &mut Run| run.fall_asleep();
    let keep_falling = |run: &mut Run| run.go(ms(400));
    let stay: fn(&mut Run) = |_| {};
    for (name, doorbell, ears, prepare) in [
        ("poll", false, true, stay),
        ("deaf", true, false, stay),
        ("falling", true, true, keep_falling as fn(&mut Run)),
        ("asleep", true, true, fall as fn(&mut Run)),
    ] {
        let mut run = Run::new(doorbell, ears);
        prepare(&mut run);
        run.polls.clear();
        let begun = run.now;
        run.go(Duration::from_secs(60));
        assert!((12..=13).contains(&run.polls.len()), "{name}: {} polls in a minute", run.polls.len());
        assert!(run.polls[0].since(begun) <= POLL, "{name}");
        assert!(run.polls.windows(2).all(|two| two[1].since(two[0]) <= POLL + ms(1)), "{name}");
    }
}

#[test]
fn asleep_it_does_nothing_but_poll_and_renew() {
    let mut run = Run::new(true, true);
    run.fall_asleep();
    run.go(ms(1));
    let (looks, steps) = (run.looks.len(), run.steps);
    run.go(Duration::from_secs(60));
    assert!(run.looks.len() - looks <= 13, "{} looks", run.looks.len() - looks);
    assert!(run.steps - steps <= 14, "{} steps", run.steps - steps);
    assert!(run.awake.iter().all(|at| *at < run.falling[0].0), "it said awake while it slept");
}

#[test]
fn asleep_the_register_is_renewed_before_half_of_its_life_has_passed() {
    let mut run = Run::new(true, true);
    run.go(ms(400));
    let (begun, falling) = run.falling[0].clone();
    // Somebody's transaction keeps us from sleep; `fall_asleep` has renewed it by itself, the last time at once before
    // this much of its life.
    run.go(BELIEVED / 2);
    run.wakefulness.fell_asleep(&falling, true);
    let fell = run.now;
    run.go(Duration::from_secs(120));
    assert_eq!(run.asleep[0], fell, "renewed at once: the last time may be half a life ago");
    assert!(fell.since(begun) >= BELIEVED / 2);
    let longest = run.asleep.windows(2).map(|two| two[1].since(two[0])).max().unwrap();
    assert!(longest <= BELIEVED / 2, "{longest:?}");
}

#[test]
fn after_it_fell_asleep_it_looks_once_more() {
    let mut run = Run::new(true, true);
    run.go(ms(400));
    let looks = run.looks.len();
    let falling = run.falling[0].1.clone();
    run.wakefulness.fell_asleep(&falling, true);
    run.act();
    assert_eq!(run.looks.len(), looks + 1);
}

#[test]
fn a_rush_wakes_it_and_silences_the_doorbell() {
    let mut run = Run::new(true, true);
    run.fall_asleep();
    run.go(Duration::from_secs(1));
    run.awake.clear();
    for _ in 0..49 {
        run.wakefulness.found(1, false, run.now);
        run.act();
    }
    assert!(run.awake.is_empty(), "49 rows are no rush");
    run.wakefulness.found(1, false, run.now);
    run.act();
    assert_eq!(run.awake, [run.now]);
    run.looks.clear();
    run.go(ms(100));
    assert!(run.looks.len() >= 30, "{} looks in 100 ms", run.looks.len());
}

#[test]
fn rows_that_come_slowly_leave_it_asleep() {
    let mut run = Run::new(true, true);
    run.fall_asleep();
    run.awake.clear();
    for _ in 0..200 {
        run.wakefulness.found(1, false, run.now);
        run.go(ms(50));
    }
    assert!(run.awake.is_empty());
}

#[test]
fn a_rush_while_it_falls_asleep_wakes_it_and_the_old_try_counts_no_more() {
    let mut run = Run::new(true, true);
    run.go(ms(400));
    let old = run.falling[0].1.clone();
    run.wakefulness.found(50, false, run.now);
    run.act();
    assert!(old.is_given_up(), "it would go on telling the doorbell to ring");
    assert_eq!(run.awake.last(), Some(&run.now));
    // Quiet again: the second try begins, and then the first one reports.
    run.go(Duration::from_secs(2));
    assert_eq!(run.falling.len(), 2);
    run.wakefulness.fell_asleep(&old, true);
    run.looks.clear();
    run.go(Duration::from_secs(1));
    assert!(run.looks.len() > 20, "the first try's success was taken for the second's");
}

#[test]
fn a_new_term_does_not_take_the_sleep_of_the_last_one_for_its_own() {
    let mut run = Run::new(true, true);
    run.go(ms(400));
    let old = run.falling[0].1.clone();
    run.wakefulness.start_over(run.now);
    assert!(old.is_given_up());
    run.go(ms(400));
    assert_eq!(run.falling.len(), 2, "the ears are still there");
    run.wakefulness.fell_asleep(&old, true);
    run.looks.clear();
    run.go(Duration::from_secs(1));
    assert!(run.looks.len() > 20);
}

#[test]
fn a_late_committer_is_looked_for_often_while_it_falls_asleep() {
    let mut run = Run::new(true, true);
    run.go(ms(400));
    run.looks.clear();
    run.go(Duration::from_secs(10));
    assert!(run.longest_pause_between_looks() <= ms(40), "{:?}", run.longest_pause_between_looks());
}

#[test]
fn sleep_that_fails_at_once_is_not_tried_in_a_tight_loop() {
    let mut run = Run::new(true, true);
    let end = run.now + Duration::from_secs(60);
    while run.now < end {
        run.act();
        if let Some((_, falling)) = run.falling.last().cloned() {
            run.wakefulness.fell_asleep(&falling, false);
        }
        run.now = run.wakefulness.next_at().max(run.now + ms(1));
    }
    assert!((30..=61).contains(&run.falling.len()), "{} tries in a minute", run.falling.len());
    // The try takes the place of a look, which follows in the next step.
    assert!(run.longest_pause_between_looks() <= ms(202), "{:?}", run.longest_pause_between_looks());
}

#[test]
fn deaf_it_looks_at_least_every_fifth_of_a_second() {
    let mut run = Run::new(true, true);
    run.fall_asleep();
    run.go(Duration::from_secs(3));
    run.wakefulness.set_ears(false, run.now);
    run.looks.clear();
    let looked_from = run.now;
    run.go(Duration::from_secs(60));
    assert_eq!(run.looks[0], looked_from, "what came while nobody listened");
    assert!(run.longest_pause_between_looks() <= ms(200), "{:?}", run.longest_pause_between_looks());
    assert!(run.looks.len() < 330, "{} looks in a minute", run.looks.len());
}

#[test]
fn without_a_doorbell_it_backs_off_to_the_poll_interval_and_comes_back_at_once() {
    let mut run = Run::new(false, true);
    run.go(Duration::from_secs(60));
    run.looks.clear();
    run.go(Duration::from_secs(60));
    assert!(run.looks.len() <= 40, "{} looks in a minute", run.looks.len());
    assert!(run.longest_pause_between_looks() <= POLL + ms(1));
    assert!(run.awake.is_empty() && run.asleep.is_empty(), "there is no register");
    run.wakefulness.found(1, false, run.now);
    run.looks.clear();
    run.go(POLL);
    run.looks.clear();
    run.wakefulness.found(1, false, run.now);
    run.go(ms(200));
    assert!(run.looks.len() >= 60, "{} looks in 200 ms", run.looks.len());
}

#[test]
fn awake_the_register_is_renewed_before_it_runs_out() {
    let mut run = Run::new(true, false);
    run.go(Duration::from_secs(120));
    assert_eq!(run.awake.len(), run.polls.len());
}
