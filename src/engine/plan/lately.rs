//! Messages whose end has been recorded while pages were being read that may still show them as they were. Without this
//! they would be taken for new ones, and composed and put in a wave only to be refused by it.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::message::{MessageId, RowVersion};

/// Which of the plan's reads: each has a higher number than those that began before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReadNumber(u64);

#[derive(Debug, Default)]
pub(super) struct Lately {
    begun: u64,
    under_way: BTreeSet<ReadNumber>,
    recorded: HashMap<MessageId, (RowVersion, ReadNumber)>,
    /// With the newest read that had begun by then.
    order: VecDeque<(ReadNumber, MessageId)>,
}

impl Lately {
    pub(super) fn read_begins(&mut self) -> ReadNumber {
        self.begun += 1;
        let number = ReadNumber(self.begun);
        self.under_way.insert(number);
        number
    }

    /// What was recorded before the oldest read that is still under way began can be shown by none any more.
    pub(super) fn read_ends(&mut self, number: ReadNumber) {
        self.under_way.remove(&number);
        let oldest = self.under_way.first().copied();
        while let Some((newest_then, id)) = self.order.front().copied() {
            if oldest.is_some_and(|oldest| oldest <= newest_then) {
                break;
            }
            self.order.pop_front();
            if self.recorded.get(&id).is_some_and(|(_, noted)| *noted == newest_then) {
                self.recorded.remove(&id);
            }
        }
    }

    pub(super) fn recorded(&mut self, id: MessageId, version: RowVersion) {
        if let Some(newest) = self.under_way.last().copied() {
            self.recorded.insert(id, (version, newest));
            self.order.push_back((newest, id));
        }
    }

    /// Is this what a page still shows of a row whose end has been recorded since?
    pub(super) fn contains(&self, id: MessageId, version: RowVersion) -> bool {
        self.recorded.get(&id).is_some_and(|(was, _)| *was == version)
    }
}
