//! What the log says when the database does not do what it should: each reason once, until it is over.
//!
//! A server that is restarted gives several reasons in turn, and many statements fail for each of them.

use std::collections::BTreeSet;

use crate::store::StoreError;

/// Reasons that are told in one trouble: the text of an error may hold a number that changes.
const MOST: usize = 20;

/// The kinds of trouble that go by themselves when the same works again.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Complaint {
    /// The connection went, whatever ran on it.
    Lost,
    /// We are not let in, for this reason.
    Unavailable(String),
    /// A statement is refused, for this reason.
    Refused(Option<&'static str>, String),
}

#[derive(Debug, Default)]
pub struct Complaints(BTreeSet<Complaint>);

impl Complaints {
    /// Whether this is to be told.
    pub fn is_news(&mut self, error: &StoreError) -> bool {
        let complaint = match error {
            StoreError::InDoubt { .. } | StoreError::Elsewhere { .. } => Complaint::Lost,
            StoreError::Unavailable(reason) => Complaint::Unavailable(reason.clone()),
            StoreError::WrongWay { .. } => Complaint::Unavailable(error.to_string()),
            StoreError::Locked { .. }
            | StoreError::Unable { .. }
            | StoreError::Refused { .. }
            | StoreError::Answer { .. } => Complaint::Refused(error.statement(), error.to_string()),
        };
        self.0.len() < MOST && self.0.insert(complaint)
    }

    /// This statement went well. True if nothing is left to complain of, and something was. Other statements may be
    /// refused for ever while this one works.
    pub fn are_over(&mut self, statement: &str) -> bool {
        let before = self.0.len();
        self.0
            .retain(|complaint| matches!(complaint, Complaint::Refused(name, _) if *name != Some(statement)));
        before > 0 && self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{Complaints, MOST};
    use crate::store::StoreError;

    fn unavailable(reason: &str) -> StoreError {
        StoreError::Unavailable(reason.to_owned())
    }

    fn lost(statement: &'static str) -> StoreError {
        StoreError::InDoubt { statement, reason: "closed".to_owned() }
    }

    fn refused(statement: &'static str) -> StoreError {
        StoreError::Refused { statement, reason: "no such column".to_owned() }
    }

    #[test]
    fn each_reason_is_told_once_in_one_trouble_and_again_in_the_next() {
        let mut complaints = Complaints::default();
        for _ in 0..2 {
            assert!(complaints.is_news(&lost("wave")));
            assert!(!complaints.is_news(&lost("discover")));
            assert!(complaints.is_news(&unavailable("refused")));
            assert!(complaints.is_news(&unavailable("starting up")));
            assert!(!complaints.is_news(&unavailable("refused")));
            assert!(complaints.are_over("discover"));
            assert!(!complaints.are_over("discover"), "it is said once");
        }
    }

    #[test]
    fn a_statement_that_is_refused_is_mended_only_by_its_own_success() {
        let mut complaints = Complaints::default();
        assert!(complaints.is_news(&refused("wave")));
        assert!(complaints.is_news(&lost("discover")));
        assert!(!complaints.are_over("discover"));
        assert!(!complaints.is_news(&refused("wave")));
        assert!(complaints.is_news(&lost("discover")));
        assert!(complaints.are_over("wave"));
    }

    #[test]
    fn a_reason_that_is_never_the_same_is_not_told_for_ever() {
        let mut complaints = Complaints::default();
        let told = (0..10 * MOST).filter(|n| complaints.is_news(&unavailable(&n.to_string()))).count();
        assert_eq!(told, MOST);
    }
}
