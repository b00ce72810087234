//! The engine: from a due row to a recorded result.
//!
//! One task decides ([`dispatch`]); everything else tells it what happened ([`Event`]) or does what it was told:
//! `lead` holds the leadership, `wake` listens, `deliver` sends, `record` writes results back, `incoming` takes what
//! the gateway reports later. A message's way: `dispatch` reads it, `compose` makes it ready, a wave is committed,
//! `deliver` sends it, the verdict comes back as an event, `record` writes it.

pub mod alarm;
pub mod complaints;
pub mod deliver;
pub mod dispatch;
pub mod failover;
pub mod incoming;
pub mod lead;
pub mod life;
pub mod memory;
pub mod plan;
pub mod record;
pub mod refusals;
pub mod route;
pub mod wake;

use std::time::Duration;

use crate::engine::lead::Leading;
use crate::engine::plan::{GatewayIndex, Read, Ready};
use crate::engine::record::Done;
use crate::engine::wake::Falling;
use crate::gateway::ProbeFailure;
use crate::message::{MessageId, Nonce, TemplateRow};
use crate::store::StoreError;
use crate::store::control::{Doorbell, Orders};
use crate::store::listen::Heard;
use crate::store::queue::{DueRow, WaveKey, WaveOutcome};
use crate::verdict::{Joint, Verdict};

/// A wave and the nonce in its references: random, so that an id that is used again has other references.
#[derive(Debug, Clone, Copy)]
pub struct WaveName {
    pub key: WaveKey,
    pub nonce: Nonce,
    /// Of the server that has it.
    pub timeline: i32,
}

/// What `dispatch` is told.
#[derive(Debug)]
pub enum Event {
    /// We lead from now on.
    Lead(Leading),
    /// We lead no more.
    Deposed,
    /// Something came over LISTEN.
    Heard(Heard),
    /// Whether LISTEN works: notifications come through.
    Ears(bool),
    /// A page was read.
    Page {
        read: Read,
        rows: Result<Vec<DueRow>, StoreError>,
        cost: Duration,
    },
    /// A wave was committed, refused, or given up for good.
    Wave {
        gateway: GatewayIndex,
        wave: WaveName,
        taken: Vec<Ready>,
        outcome: Result<WaveOutcome, StoreError>,
    },
    /// An attempt is over.
    Answer {
        gateway: GatewayIndex,
        id: MessageId,
        verdict: Verdict,
    },
    /// An attempt of messages that shared a request is over.
    JointAnswer {
        gateway: GatewayIndex,
        ids: Vec<MessageId>,
        joint: Joint,
    },
    /// Results are in the database.
    Recorded(Vec<Done>),
    /// PostgreSQL refuses to write some results, for this reason; `None`: no longer.
    ResultsRefused(Option<String>),
    Probed {
        gateway: GatewayIndex,
        result: Result<(), ProbeFailure>,
    },
    Templates(Result<Vec<TemplateRow>, StoreError>),
    NextDue(Result<Option<Duration>, StoreError>),
    Doorbell(Result<Doorbell, StoreError>),
    /// What a person wants, asked in this epoch.
    Orders {
        epoch: i64,
        orders: Result<Orders, StoreError>,
    },
    /// The register says asleep, and everything that may not have rung has ended.
    FellAsleep(Falling, Result<(), StoreError>),
    /// Rows were queued again by the sweep.
    Swept,
    /// What a failover had made uncertain may have changed.
    Settled,
    /// Stop in good order, and wait no longer than this for what is under way.
    Stop {
        grace: Duration,
    },
}
