//! What stands in a committed wave and has not begun: message by message, or, where a gateway takes several in one
//! request, in groups that may travel together.
//!
//! Pure. A request takes what is here when its turn comes; nothing waits for it to fill.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use crate::message::{Lane, MessageId, Outgoing};

/// Most bytes of a request for several messages. A thousand recipients take 80 kB, so this cuts only where a very long text
/// is sent to many; servers and what inspects their traffic take bodies of a megabyte as a rule, and some less.
const REQUEST_BYTES: usize = 256 * 1024;
/// Of a recipient, beside its number and reference.
const RECIPIENT_BYTES: usize = 32;

/// Messages of one text and sender have one of these; so may others, by chance.
pub(super) type Alike = u64;

#[derive(Debug)]
pub(super) enum Launch {
    /// One message a request, in their order, but those of the urgent lane first. The lanes of the others were weighed when
    /// their wave was taken.
    Singly { urgent: VecDeque<Outgoing>, others: VecDeque<Outgoing> },
    /// The same, by what may travel together.
    Together { urgent: Groups, others: Groups },
}

/// What one request carries.
#[derive(Debug)]
pub(super) enum Load {
    One(Outgoing),
    /// Two or more.
    Several(Vec<Outgoing>),
}

impl Launch {
    pub(super) fn new(coalesce: usize) -> Launch {
        if coalesce > 1 {
            Launch::Together { urgent: Groups::default(), others: Groups::default() }
        } else {
            Launch::Singly { urgent: VecDeque::new(), others: VecDeque::new() }
        }
    }

    pub(super) fn push(&mut self, message: Outgoing, lane: Lane, alike: Alike) {
        match self {
            Launch::Singly { urgent, .. } if lane == Lane::Urgent => urgent.push_back(message),
            Launch::Singly { others, .. } => others.push_back(message),
            Launch::Together { urgent, .. } if lane == Lane::Urgent => urgent.push(message, alike),
            Launch::Together { others, .. } => others.push(message, alike),
        }
    }

    /// The next request, of at most so many messages.
    pub(super) fn next(&mut self, most: usize) -> Option<Load> {
        match self {
            Launch::Singly { urgent, others } => {
                urgent.pop_front().or_else(|| others.pop_front()).map(Load::One)
            }
            Launch::Together { urgent, others } => {
                let mut messages = urgent.take(most).or_else(|| others.take(most))?;
                match messages.len() {
                    1 => messages.pop().map(Load::One),
                    _ => Some(Load::Several(messages)),
                }
            }
        }
    }

    /// Requests that carry all of it, or a few less.
    pub(super) fn requests(&self, most: usize) -> usize {
        match self {
            Launch::Singly { urgent, others } => urgent.len() + others.len(),
            Launch::Together { urgent, others } => urgent.requests(most) + others.requests(most),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests(1) == 0
    }

    pub(super) fn drain(&mut self) -> Vec<MessageId> {
        match self {
            Launch::Singly { urgent, others } => {
                urgent.drain(..).chain(others.drain(..)).map(|message| message.id).collect()
            }
            Launch::Together { urgent, others } => {
                urgent.drain().chain(others.drain()).map(|message| message.id).collect()
            }
        }
    }
}

/// Messages by what they have in common. Groups take turns, so that a long one delays the others by one request.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// None is empty.
    groups: HashMap<Alike, VecDeque<Outgoing>>,
    turns: VecDeque<Alike>,
    hasher: RandomState,
}

impl Groups {
    fn push(&mut self, message: Outgoing, alike: Alike) {
        let turns = &mut self.turns;
        let group = self.groups.entry(alike).or_insert_with(|| {
            turns.push_back(alike);
            VecDeque::new()
        });
        group.push_back(message);
    }

    /// Messages of one text and sender, each to another number: a gateway may take one that is there twice for a mistake.
    fn take(&mut self, most: usize) -> Option<Vec<Outgoing>> {
        let alike = self.turns.pop_front()?;
        let group = self.groups.get_mut(&alike)?;
        let first = group.pop_front()?;
        let mut numbers = HashSet::with_capacity(group.len().min(most));
        numbers.insert(self.hasher.hash_one(&first.recipient));
        let mut bytes = first.text.len() + size(&first);
        let mut taken = Vec::with_capacity((group.len() + 1).min(most));
        taken.push(first);
        let mut passed_by = VecDeque::new();
        // The second limit keeps a group of nothing but repetitions from being walked as often as it has messages.
        while taken.len() < most && passed_by.len() < most {
            let Some(message) = group.pop_front() else { break };
            let full = bytes + size(&message) > REQUEST_BYTES;
            if !full
                && is_like(&taken[0], &message)
                && numbers.insert(self.hasher.hash_one(&message.recipient))
            {
                bytes += size(&message);
                taken.push(message);
            } else {
                passed_by.push_back(message);
                if full {
                    break;
                }
            }
        }
        passed_by.append(group);
        if passed_by.is_empty() {
            self.groups.remove(&alike);
        } else {
            *group = passed_by;
            self.turns.push_back(alike);
        }
        Some(taken)
    }

    fn requests(&self, most: usize) -> usize {
        self.groups.values().map(|group| group.len().div_ceil(most)).sum()
    }

    fn drain(&mut self) -> impl Iterator<Item = Outgoing> {
        self.turns.clear();
        std::mem::take(&mut self.groups).into_values().flatten()
    }
}

/// May travel in one request.
fn is_like(one: &Outgoing, other: &Outgoing) -> bool {
    one.text == other.text && one.sender == other.sender && one.encoding == other.encoding
}

fn size(message: &Outgoing) -> usize {
    message.recipient.len() + message.gateway_ref.len() + RECIPIENT_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{Launch, Load};
    use crate::message::{Encoding, Lane, MessageId, Outgoing};

    fn message(id: i64, number: u32, text: &str) -> Outgoing {
        Outgoing {
            id: MessageId(id),
            attempt: 1,
            recipient: format!("35387{number:07}"),
            text: text.to_owned(),
            sender: "Demo".to_owned(),
            encoding: Encoding::Gsm7,
            segments: 1,
            gateway_ref: format!("{id}-00000000-1"),
        }
    }

    fn ids(launch: &mut Launch, most: usize) -> Vec<Vec<i64>> {
        let next = || {
            Some(match launch.next(most)? {
                Load::One(message) => vec![message.id.0],
                Load::Several(messages) => {
                    assert!(messages.len() > 1);
                    messages.iter().map(|message| message.id.0).collect()
                }
            })
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn without_coalescing_messages_leave_one_by_one_in_their_order_and_urgent_ones_first() {
        let mut launch = Launch::new(1);
        for (id, lane) in [(3, Lane::Bulk), (1, Lane::Normal), (2, Lane::Urgent)] {
            launch.push(message(id, 1, "a"), lane, 7);
        }
        assert_eq!(launch.requests(1), 3);
        assert_eq!(ids(&mut launch, 1), [[2], [3], [1]]);
    }

    #[test]
    fn messages_of_one_text_leave_together_and_groups_take_turns() {
        let mut launch = Launch::new(3);
        for id in 1..=5_u32 {
            launch.push(message(id.into(), id, "a"), Lane::Normal, 7);
        }
        launch.push(message(6, 6, "b"), Lane::Bulk, 8);
        launch.push(message(7, 7, "u"), Lane::Urgent, 9);
        launch.push(message(8, 8, "u"), Lane::Urgent, 9);
        assert_eq!(launch.requests(3), 4);
        assert_eq!(ids(&mut launch, 3), [vec![7, 8], vec![1, 2, 3], vec![6], vec![4, 5]]);
        assert_eq!(launch.requests(3), 0);
    }

    #[test]
    fn what_is_alike_by_chance_does_not_travel_together() {
        let mut launch = Launch::new(10);
        launch.push(message(1, 1, "a"), Lane::Normal, 7);
        launch.push(message(2, 2, "b"), Lane::Normal, 7);
        launch.push(message(3, 3, "a"), Lane::Normal, 7);
        let other_sender = Outgoing { sender: "Other".to_owned(), ..message(4, 4, "a") };
        launch.push(other_sender, Lane::Normal, 7);
        assert_eq!(ids(&mut launch, 10), [vec![1, 3], vec![2], vec![4]]);
    }

    #[test]
    fn a_very_long_text_takes_fewer_recipients_with_it() {
        let mut launch = Launch::new(1000);
        let text = "x".repeat(250 * 1024);
        for id in 1..=300_u32 {
            launch.push(message(id.into(), id, &text), Lane::Normal, 7);
        }
        let requests = ids(&mut launch, 1000);
        assert!(requests.len() > 1 && requests.len() < 10, "{}", requests.len());
        assert_eq!(requests.concat(), (1..=300).collect::<Vec<i64>>());
    }

    #[test]
    fn what_is_drained_is_all_that_was_pushed() {
        let mut launch = Launch::new(10);
        launch.push(message(1, 1, "a"), Lane::Normal, 7);
        launch.push(message(2, 2, "b"), Lane::Urgent, 8);
        let mut drained = launch.drain();
        drained.sort_unstable();
        assert_eq!(drained, [MessageId(1), MessageId(2)]);
        assert!(launch.next(10).is_none() && launch.requests(10) == 0);
        launch.push(message(3, 1, "a"), Lane::Normal, 7);
        assert_eq!(ids(&mut launch, 10), [[3]]);
    }

    proptest! {
        #[test]
        fn every_message_leaves_once_and_no_request_has_two_texts_or_a_number_twice(
            pushed in proptest::collection::vec((0_u32..20, 0_u64..4, 0_u64..3, 0_usize..3), 0..200),
            most in 1_usize..20,
        ) {
            let mut launch = Launch::new(1000);
            for (id, (number, text, chance, lane)) in (0..).zip(&pushed) {
                // Some texts have the same mark by chance.
                launch.push(message(id, *number, &format!("text {text}")), Lane::ALL[*lane], text % (chance + 1));
            }
            let mut seen = Vec::new();
            while let Some(load) = launch.next(most) {
                let messages = match load {
                    Load::One(message) => vec![message],
                    Load::Several(messages) => messages,
                };
                prop_assert!(messages.len() <= most);
                let mut numbers: Vec<&str> = messages.iter().map(|message| message.recipient.as_str()).collect();
                numbers.sort_unstable();
                numbers.dedup();
                prop_assert_eq!(numbers.len(), messages.len());
                for message in &messages {
                    prop_assert_eq!(&message.text, &messages[0].text);
                    seen.push(message.id.0);
                }
            }
            seen.sort_unstable();
            let all: Vec<i64> = (0..i64::try_from(pushed.len()).unwrap()).collect();
            prop_assert_eq!(seen, all);
            prop_assert_eq!(launch.requests(most), 0);
        }
    }
}
