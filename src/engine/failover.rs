//! After a failover: what may be missing from the database, and who can tell.
//!
//! An asynchronous replica that is promoted lacks the last commits of its primary: waves, results, receipts. A message
//! that was sent in them is queued again. Only the daemons that sent, or may have sent, know of it; each of them that
//! lived through the failover writes all of it again and *speaks* (`Candidate::come_home`). A new leader hears them out
//! before it sends. If somebody is silent who may have sent something, what was queued then is *uncertain*.

use std::time::Duration;

use crate::store::failover::{Witness, Witnesses};
use crate::store::leader::Standing;

/// A new timeline is a failover, not a restored backup, if somebody was alive so shortly before.
const FAILOVER_WITHIN: Duration = Duration::from_secs(120);
/// Who had been silent for so long when the failover came was not there any more.
const ALIVE_WITHIN: Duration = Duration::from_secs(120);

/// What a new leader makes of the database that it finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The one that messages were last sent from; or it failed over, and all that was lost has been written again.
    Certain,
    /// It failed over, and somebody is silent who may know of messages that were sent: who.
    Uncertain { silent: String },
    /// A clone, a restored backup, or a replica promoted long after the last sign of life: why it is one.
    Changed { reason: String },
}

pub fn judge(standing: &Standing, witnesses: &Witnesses) -> Judgement {
    let Some(remembered) = standing.remembered else { return Judgement::Certain };
    let present = standing.present;
    if remembered.system_identifier != present.system_identifier {
        return Judgement::Changed {
            reason: format!(
                "this database is a copy: messages were last sent from cluster {}, this is cluster {}; if it is to \
                 send from now on, run `outboxd adopt`",
                remembered.system_identifier.cast_unsigned(),
                present.system_identifier.cast_unsigned()
            ),
        };
    }
    if remembered.timeline == present.timeline {
        return Judgement::Certain;
    }
    let silent = silent(standing, witnesses);
    let recent = witnesses.last_sign.is_some_and(|age| age < FAILOVER_WITHIN);
    let anchored = witnesses.all.iter().any(|w| was_there(w) && w.spoke && w.vouches);
    match silent {
        // That the last leader had stopped in good order proves nothing of a database that was restored much later.
        None if recent || anchored => Judgement::Certain,
        Some(silent) if recent => Judgement::Uncertain { silent },
        None | Some(_) => Judgement::Changed {
            reason: format!(
                "this database went back in time: it was restored or promoted (timeline {} instead of {}), and what was \
                 sent after its last sign of life is not in it; check the queue, then run `outboxd adopt`",
                present.timeline, remembered.timeline
            ),
        },
    }
}

/// Whether somebody may yet say what the failover lost.
pub fn worth_waiting(standing: &Standing, witnesses: &Witnesses) -> bool {
    let same_cluster = standing
        .remembered
        .is_some_and(|remembered| remembered.system_identifier == standing.present.system_identifier);
    same_cluster && witnesses.all.iter().any(|w| (was_there(w) || w.led) && !w.spoke && !w.left)
}

/// Whether everybody has spoken whose silence made the last failover uncertain.
pub fn settled(witnesses: &Witnesses) -> bool {
    witnesses.all.iter().any(|w| w.led_before) && still_silent(witnesses).is_none()
}

/// Those whose silence made the last failover uncertain, for people.
pub fn still_silent(witnesses: &Witnesses) -> Option<String> {
    names(witnesses.all.iter().filter(|w| (w.led_before || was_there(w)) && !accounted_for(w)))
}

/// Those who may have sent something that is not in the database.
fn silent(standing: &Standing, witnesses: &Witnesses) -> Option<String> {
    let known = witnesses.all.iter().any(|w| w.led);
    match &standing.last_leader {
        Some(instance) if !known => Some(instance.clone()),
        _ => names(witnesses.all.iter().filter(|w| {
            let forgot = w.spoke && !w.vouches;
            forgot || ((w.led || was_there(w)) && !accounted_for(w))
        })),
    }
}

/// It had stopped before, or has said all it knows, and knows enough.
fn accounted_for(witness: &Witness) -> bool {
    witness.left || (witness.spoke && witness.vouches)
}

/// Alive when the database was last heard of before the failover.
fn was_there(witness: &Witness) -> bool {
    witness.silent_before.is_some_and(|silence| silence < ALIVE_WITHIN)
}

fn names<'a>(witnesses: impl Iterator<Item = &'a Witness>) -> Option<String> {
    let names: Vec<&str> = witnesses.map(|w| w.instance.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// The alarm while something is uncertain.
pub fn alarm_text(silent: &str, set_aside: i64) -> String {
    let many = if set_aside >= 100_000 { " or more" } else { "" };
    format!(
        "the database failed over, and nobody can tell what was sent in its last moments (no word from {silent}); \
         {set_aside}{many} messages that were queued then are set aside. If this is the database to send from, run \
         `outboxd adopt`; then `outboxd retry --status held --code failover_uncertain --force` sends them, and \
         `outboxd cancel --status held --code failover_uncertain` gives them up"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Judgement, judge, settled, worth_waiting};
    use crate::store::failover::{Cluster, Witness, Witnesses};
    use crate::store::leader::Standing;

    fn standing(remembered: Option<(i64, i32)>, present: (i64, i32)) -> Standing {
        let cluster = |(system_identifier, timeline)| Cluster { system_identifier, timeline };
        Standing {
            epoch: 1,
            held: false,
            held_code: None,
            held_reason: None,
            remembered: remembered.map(cluster),
            present: cluster(present),
            last_leader: remembered.map(|_| "leader".to_owned()),
            uncertain: None,
        }
    }

    fn promoted() -> Standing {
        standing(Some((7, 1)), (7, 2))
    }

    /// There until the end, and silent since.
    fn witness(instance: &str) -> Witness {
        Witness {
            instance: instance.to_owned(),
            host: "there".to_owned(),
            led: instance == "leader",
            led_before: instance == "leader",
            spoke: false,
            vouches: true,
            left: false,
            silent_before: Some(Duration::from_secs(1)),
        }
    }

    fn spoke(instance: &str) -> Witness {
        Witness { spoke: true, ..witness(instance) }
    }

    fn witnesses(last_sign: u64, all: &[Witness]) -> Witnesses {
        Witnesses { all: all.to_vec(), last_sign: Some(Duration::from_secs(last_sign)) }
    }

    const SOON: u64 = 5;
    const MUCH_LATER: u64 = 4000;

    fn uncertain(silent: &str) -> Judgement {
        Judgement::Uncertain { silent: silent.to_owned() }
    }

    #[test]
    fn a_new_outbox_and_an_unchanged_one_are_certain() {
        assert_eq!(judge(&standing(None, (7, 1)), &Witnesses::default()), Judgement::Certain);
        let same = standing(Some((7, 1)), (7, 1));
        assert_eq!(judge(&same, &witnesses(MUCH_LATER, &[witness("leader")])), Judgement::Certain);
    }

    #[test]
    fn a_copy_is_one_however_fresh_it_is_and_whoever_speaks() {
        let copy = standing(Some((7, 1)), (8, 1));
        let seen = witnesses(SOON, &[spoke("leader")]);
        let Judgement::Changed { reason } = judge(&copy, &seen) else { panic!() };
        assert!(reason.contains("outboxd adopt"));
        assert!(!worth_waiting(&copy, &witnesses(SOON, &[witness("leader")])));
    }

    #[test]
    fn a_failover_is_certain_once_everybody_who_was_there_has_spoken() {
        let [leader, standby] = [witness("leader"), witness("standby")];
        for (seen, judgement) in [
            (vec![leader.clone(), standby.clone()], uncertain("leader, standby")),
            (vec![spoke("leader"), standby.clone()], uncertain("standby")),
            (vec![leader.clone(), spoke("standby")], uncertain("leader")),
            (vec![spoke("leader"), spoke("standby")], Judgement::Certain),
            (vec![spoke("standby")], uncertain("leader")),
            (vec![Witness { vouches: false, ..spoke("leader") }], uncertain("leader")),
            (vec![Witness { left: true, ..leader.clone() }], Judgement::Certain),
            (vec![], uncertain("leader")),
        ] {
            assert_eq!(judge(&promoted(), &witnesses(SOON, &seen)), judgement, "{seen:?}");
        }
    }

    #[test]
    fn who_was_silent_for_long_before_is_not_waited_for_unless_it_led() {
        let silence = Some(Duration::from_secs(500));
        let gone = Witness { silent_before: silence, ..witness("gone") };
        assert_eq!(
            judge(&promoted(), &witnesses(SOON, &[spoke("leader"), gone.clone()])),
            Judgement::Certain
        );
        assert!(!worth_waiting(&promoted(), &witnesses(SOON, &[spoke("leader"), gone])));
        let led = Witness { silent_before: silence, ..witness("leader") };
        assert_eq!(judge(&promoted(), &witnesses(SOON, &[led])), uncertain("leader"));
    }

    #[test]
    fn long_after_the_last_sign_of_life_it_counts_who_lived_through_it() {
        let left = Witness { left: true, ..witness("leader") };
        for seen in
            [vec![witness("leader")], vec![left.clone()], vec![], vec![witness("leader"), spoke("standby")]]
        {
            let judgement = judge(&promoted(), &witnesses(MUCH_LATER, &seen));
            assert!(matches!(judgement, Judgement::Changed { .. }), "{seen:?}");
        }
        assert_eq!(judge(&promoted(), &witnesses(MUCH_LATER, &[spoke("leader")])), Judgement::Certain);
        assert_eq!(judge(&promoted(), &witnesses(MUCH_LATER, &[left, spoke("standby")])), Judgement::Certain);
    }

    #[test]
    fn it_is_settled_when_the_silent_ones_have_spoken() {
        assert!(!settled(&witnesses(SOON, &[witness("leader"), spoke("standby")])));
        assert!(!settled(&witnesses(SOON, &[spoke("standby")])), "the leader's row has gone");
        assert!(settled(&witnesses(MUCH_LATER, &[spoke("leader"), spoke("standby")])));
    }
}
