//! The moment at which a request leaves: everything before it is certain, everything after it is not.
//!
//! A request's body is handed to the HTTP client as an [`OneWayBody`]. Its first poll, which is the moment its
//! bytes are about to be written, asks the [`Gate`] and notes the answer; there is no second poll that yields
//! bytes. Whoever judges an error afterwards asks the [`Departure`] whether anything left. Giving up and leaving
//! exclude each other by one compare-and-swap, so "nothing left" stays true even if the HTTP client still holds
//! the body. This file must not know what the bytes are.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

/// Asked when the first byte of a request is about to leave: may it? (Leadership, shutdown.)
///
/// It is called from the HTTP client's task and must neither block nor panic.
#[derive(Clone)]
pub struct Gate(Arc<dyn Fn() -> bool + Send + Sync>);

impl Gate {
    pub fn new(may_leave: impl Fn() -> bool + Send + Sync + 'static) -> Gate {
        Gate(Arc::new(may_leave))
    }

    /// Lets everything leave: for test messages sent by hand.
    pub fn always() -> Gate {
        Gate::new(|| true)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

const WAITING: u8 = 0;
const LEFT: u8 = 1;
const HELD_BACK: u8 = 2;
const GIVEN_UP: u8 = 3;

/// What became of the bytes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// No byte of the body has left, and none will.
    NeverLeft,
    /// The gate was shut: no byte has left, and none will.
    HeldBack,
    /// The body was handed over for writing: it may have arrived.
    Left,
}

pub(super) struct Departure {
    state: AtomicU8,
    gate: Gate,
    left: Notify,
}

impl Departure {
    pub(super) fn new(gate: &Gate) -> Arc<Departure> {
        Arc::new(Departure { state: AtomicU8::new(WAITING), gate: gate.clone(), left: Notify::new() })
    }

    /// Asks the gate and, if it is open, marks the request as having left. True at most once.
    pub(super) fn leave(&self) -> bool {
        // The gate is asked first and the mark set second: were it the other way round, a reader could see
        // "left" for a request that the gate then holds back.
        let next = if (self.gate.0)() { LEFT } else { HELD_BACK };
        if self.state.compare_exchange(WAITING, next, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        self.left.notify_one();
        next == LEFT
    }

    /// Completes once the gate was asked, whatever it said.
    pub(super) async fn asked(&self) {
        self.left.notified().await;
    }

    /// Forbids leaving from now on, and says what had happened until now.
    pub(super) fn settle(&self) -> Fate {
        match self.state.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(GIVEN_UP) => Fate::NeverLeft,
            Err(HELD_BACK) => Fate::HeldBack,
            Err(_) => Fate::Left,
        }
    }
}

impl fmt::Debug for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departure").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Settles the departure when the sending future is dropped half-way, so that a cancelled send cannot leave later.
#[derive(Debug)]
pub(super) struct SettleOnDrop(pub(super) Arc<Departure>);

impl Drop for SettleOnDrop {
    fn drop(&mut self) {
        self.0.settle();
    }
}

/// A body of known length that leaves once or not at all. Not `Clone`, so no layer can keep a copy to replay.
#[derive(Debug)]
pub(super) struct OneWayBody {
    departure: Arc<Departure>,
    bytes: Option<Bytes>,
}

impl OneWayBody {
    /// `bytes` must not be empty: an empty body is never polled, so the gate would never be asked.
    pub(super) fn new(departure: Arc<Departure>, bytes: Bytes) -> OneWayBody {
        OneWayBody { departure, bytes: Some(bytes) }
    }
}

/// The body did not leave; [`Departure::settle`] tells why.
#[derive(Debug, thiserror::Error)]
#[error("the request was not let out")]
pub(super) struct StayedHere;

impl Body for OneWayBody {
    type Data = Bytes;
    type Error = StayedHere;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StayedHere>>> {
        let Some(bytes) = self.bytes.take() else { return Poll::Ready(None) };
        Poll::Ready(Some(if self.departure.leave() { Ok(Frame::data(bytes)) } else { Err(StayedHere) }))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    /// Exact, so that the request carries Content-Length: old gateways do not take chunked bodies.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;
    use http_body::Body;

    use super::{Departure, Fate, Gate, OneWayBody};

    fn poll(body: &mut OneWayBody) -> Option<bool> {
        match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frame) => frame.map(|frame| frame.is_ok()),
            Poll::Pending => panic!("the body never waits"),
        }
    }

    #[test]
    fn a_body_leaves_once_and_is_then_at_its_end() {
        let departure = Departure::new(&Gate::always());
        let mut body = OneWayBody::new(departure.clone(), Bytes::from_static(b"text"));
        assert_eq!(body.size_hint().exact(), Some(4));
        assert_eq!(poll(&mut body), Some(true));
        assert_eq!(poll(&mut body), None);
        assert_eq!(departure.settle(), Fate::Left);
    }

    #[test]
    fn a_shut_gate_holds_the_body_back_for_good() {
        let departure = Departure::new(&Gate::new(|| false));
        let mut body = OneWayBody::new(departure.clone(), Bytes::from_static(b"text"));
        assert_eq!(poll(&mut body), Some(false));
        assert_eq!(poll(&mut body), None);
        assert_eq!(departure.settle(), Fate::HeldBack);
    }

    #[test]
    fn what_was_given_up_cannot_leave_any_more() {
        let departure = Departure::new(&Gate::always());
        let mut body = OneWayBody::new(departure.clone(), Bytes::from_static(b"text"));
        assert_eq!(departure.settle(), Fate::NeverLeft);
        assert_eq!(poll(&mut body), Some(false));
        assert_eq!(departure.settle(), Fate::NeverLeft);
    }

    #[test]
    fn one_departure_lets_one_body_out_even_if_two_are_made() {
        let departure = Departure::new(&Gate::always());
        let mut first = OneWayBody::new(departure.clone(), Bytes::from_static(b"text"));
        let mut second = OneWayBody::new(departure, Bytes::from_static(b"text"));
        assert_eq!((poll(&mut first), poll(&mut second)), (Some(true), Some(false)));
    }
}
