//! How many messages of a wave find a place in a request, where a gateway takes several in one. Messages that are all
//! different need a request each: without this limit thousands of them would stand in waves behind a few requests, and be
//! unknown if the daemon were killed.

use std::collections::{HashMap, VecDeque};

use crate::engine::plan::Ready;

/// The places for requests that one wave may use.
#[derive(Debug)]
pub struct Requests {
    /// Requests that may be under way or stand in waves.
    pub(super) all: usize,
    pub(super) free: usize,
    /// Messages that one takes.
    most: usize,
    /// Messages taken so far, by what they have in common.
    taken: HashMap<u64, usize>,
}

impl Requests {
    pub fn new(all: usize, used: usize, most: usize) -> Requests {
        Requests { all, free: all.saturating_sub(used), most: most.max(1), taken: HashMap::new() }
    }

    /// Takes from the first `count` rows those that travel in at most so many more requests; the others stay where they
    /// are. A row that needs a request of its own does not keep back those behind it that share one.
    pub(super) fn take(
        &mut self,
        ready: &mut VecDeque<Ready>,
        count: usize,
        places: usize,
        taken: &mut Vec<Ready>,
    ) {
        let mut places = places.min(self.free);
        let mut left = Vec::new();
        for row in ready.drain(..count) {
            let sharing = self.taken.entry(row.alike).or_default();
            if sharing.is_multiple_of(self.most) {
                if places == 0 {
                    left.push(row);
                    continue;
                }
                places -= 1;
                self.free -= 1;
            }
            *sharing += 1;
            taken.push(row);
        }
        for row in left.into_iter().rev() {
            ready.push_front(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::Requests;
    use crate::engine::plan::Ready;
    use crate::engine::plan::tests::ready;
    use crate::message::Lane;

    fn rows(alike: &[u64]) -> VecDeque<Ready> {
        alike.iter().zip(1..).map(|(alike, id)| Ready { alike: *alike, ..ready(Lane::Normal, id) }).collect()
    }

    fn ids<'a>(rows: impl IntoIterator<Item = &'a Ready>) -> Vec<i64> {
        rows.into_iter().map(|row| row.id.0).collect()
    }

    #[test]
    fn rows_that_share_a_request_need_one_place_and_the_others_keep_theirs_in_the_queue() {
        let mut ready = rows(&[7, 8, 9, 7, 8, 9, 7, 7]);
        let (mut requests, mut taken) = (Requests::new(10, 7, 3), Vec::new());
        requests.take(&mut ready, 8, 2, &mut taken);
        assert_eq!(ids(&taken), [1, 2, 4, 5, 7]);
        assert_eq!(ids(&ready), [3, 6, 8], "9 found no place, and 7 has been full");
        requests.take(&mut ready, 3, 9, &mut taken);
        assert_eq!((ids(&taken[5..]), ids(&ready)), (vec![3, 6], vec![8]), "one place was left");
        requests.take(&mut ready, 1, 9, &mut taken);
        assert_eq!(ids(&ready), [8]);
    }

    #[test]
    fn nothing_is_taken_where_everything_is_used() {
        let mut ready = rows(&[1, 2]);
        let mut taken = Vec::new();
        Requests::new(4, 6, 100).take(&mut ready, 2, 2, &mut taken);
        assert_eq!((taken.len(), ready.len()), (0, 2));
    }
}
