//! What is asked and said after a failover: which database this is now, what it lost, who can tell.
//!
//! PostgreSQL begins another *timeline* whenever a replica is promoted or a backup is recovered. The leader row and each
//! daemon's own row say which one they were written on, and so everybody finds out that something happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{self, Moment};
use crate::message::{AttemptNo, CreatedAt, MessageId, NotifyRef, OutboxRow, Status};
use crate::store::control::{Identity, Role};
use crate::store::queue::Timestamp;
use crate::store::statement::{CERTAIN, HEARTBEAT, HERE, REAPPLY, RELEASE, UNCERTAIN, VOUCH, WITNESSES};
use crate::store::{Statement, Store, StoreError, column};

/// A PostgreSQL cluster at one time of its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    pub system_identifier: i64,
    pub timeline: i32,
}

/// The timeline that statements are meant for, if that is known: shared by all who use a [`Store`].
#[derive(Debug, Clone, Default)]
pub(super) struct Expected(Arc<(AtomicI32, AtomicU64)>);

impl Expected {
    pub(super) fn get(&self) -> Option<i32> {
        // Timelines begin with 1.
        Some(self.0.0.load(Ordering::Acquire)).filter(|timeline| *timeline > 0)
    }

    /// A connection that is as old as this was made before we started over, and may lead to another server.
    pub(super) fn is_outdated(&self, age: Duration) -> bool {
        let since = self.0.1.load(Ordering::Acquire);
        since != 0 && age >= clock::now().since(Moment::from_nanos(since))
    }

    pub(super) fn start_over(&self) {
        self.0.1.store(clock::now().as_nanos(), Ordering::Release);
    }
}

/// What became of a message, or that it is under way, as the daemon knows it and the database may have lost it.
#[derive(Debug, Clone)]
pub struct Fact {
    pub id: MessageId,
    pub row_made: CreatedAt,
    pub attempt: AttemptNo,
    pub status: Status,
    pub gateway: Arc<str>,
    pub reference: NotifyRef,
}

/// Where a daemon finds itself.
#[derive(Debug, Clone, Copy)]
pub struct Here {
    pub cluster: Cluster,
    /// When the last heartbeat of this daemon was sent that is in here: what it had recorded by then is in here as well.
    pub beat: Option<Moment>,
}

/// What a heartbeat found.
#[derive(Debug)]
pub struct Pulse {
    pub cluster: Cluster,
    /// The other daemons alive, in the database's own words.
    pub others: String,
}

/// A daemon that was there before the failover.
#[derive(Debug, Clone)]
pub struct Witness {
    pub instance: String,
    pub host: String,
    /// The last leader.
    pub led: bool,
    /// The last leader before the failover that is not settled yet.
    pub led_before: bool,
    /// All that it knows is in this database.
    pub spoke: bool,
    /// And it remembers everything that may have been lost.
    pub vouches: bool,
    /// It had stopped in good order before.
    pub left: bool,
    /// Its last sign of life before the failover was so much older than the last of all; `None`: it was not there.
    pub silent_before: Option<Duration>,
}

#[derive(Debug, Clone, Default)]
pub struct Witnesses {
    pub all: Vec<Witness>,
    /// Since the last sign of life of anybody before the failover.
    pub last_sign: Option<Duration>,
}

/// Rows that may have been sent although they are queued: up to this id, created until then, and due until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uncertain {
    pub up_to: MessageId,
    pub created_until_us: i64,
    pub due_until_us: i64,
}

impl Uncertain {
    pub const fn covers(self, row: &OutboxRow) -> bool {
        row.id.0 <= self.up_to.0
            && row.row_made.0 <= self.created_until_us
            && row.send_after_us <= self.due_until_us
    }

    /// Nobody has said yet that this is the database to send from.
    pub const fn covers_all_that_is_due(self) -> bool {
        self.due_until_us == i64::MAX
    }

    /// From the three columns that begin at `index`.
    pub(super) fn of(
        statement: Statement,
        row: &tokio_postgres::Row,
        index: usize,
    ) -> Result<Option<Uncertain>, StoreError> {
        let up_to: Option<i64> = column(statement, row, index)?;
        let created: Option<Timestamp> = column(statement, row, index + 1)?;
        let due: Option<Timestamp> = column(statement, row, index + 2)?;
        Ok(up_to.zip(created).zip(due).map(|((up_to, created), due)| Uncertain {
            up_to: MessageId(up_to),
            created_until_us: created.0,
            due_until_us: due.0,
        }))
    }
}

impl Store {
    /// From now on statements are meant for the server that writes this timeline; results and receipts are refused by
    /// any other.
    pub fn expect(&self, timeline: i32) {
        if self.expected.0.0.swap(timeline, Ordering::AcqRel) != timeline {
            self.forget_connections();
        }
    }

    pub async fn here(&self, me: &Identity) -> Result<Here, StoreError> {
        let row = self.query_one(HERE, &[/* instance */ &me.instance]).await?;
        let beat: Option<i64> = column(HERE, &row, 2)?;
        Ok(Here {
            cluster: Cluster { system_identifier: column(HERE, &row, 0)?, timeline: column(HERE, &row, 1)? },
            beat: beat.map(|nanos| Moment::from_nanos(nanos.cast_unsigned())),
        })
    }

    /// A sign of life, written only on the timeline `home`.
    pub async fn heartbeat(
        &self,
        me: &Identity,
        role: Role,
        home: Cluster,
        now: Moment,
    ) -> Result<Pulse, StoreError> {
        let row = self
            .query_one(
                HEARTBEAT,
                &[
                    /* instance */ &me.instance,
                    /* host */ &me.host,
                    /* pid */ &me.pid,
                    /* version */ &me.version,
                    /* role */ &role.as_str(),
                    /* started */ &now.since(me.started).as_secs_f64(),
                    /* beat */ &now.as_nanos().cast_signed(),
                    /* timeline */ &home.timeline,
                ],
            )
            .await?;
        Ok(Pulse {
            cluster: Cluster {
                system_identifier: column(HEARTBEAT, &row, 0)?,
                timeline: column(HEARTBEAT, &row, 1)?,
            },
            others: column(HEARTBEAT, &row, 2)?,
        })
    }

    /// Says that all this daemon knows is in the database `home`. `others`: from the last heartbeat before.
    pub async fn vouch(
        &self,
        me: &Identity,
        home: Cluster,
        now: Moment,
        vouches: bool,
        others: &str,
    ) -> Result<(), StoreError> {
        let rows = self
            .query(
                VOUCH,
                &[
                    /* instance */ &me.instance,
                    /* host */ &me.host,
                    /* pid */ &me.pid,
                    /* version */ &me.version,
                    /* role */ &Role::Standby.as_str(),
                    /* started */ &now.since(me.started).as_secs_f64(),
                    /* beat */ &now.as_nanos().cast_signed(),
                    /* timeline */ &home.timeline,
                    /* vouches */ &vouches,
                    /* others */ &others,
                ],
            )
            .await?;
        if rows.is_empty() {
            return Err(StoreError::Elsewhere {
                statement: VOUCH.name,
                reason: "the database changed once more".to_owned(),
            });
        }
        Ok(())
    }

    /// Writes facts again that a failover has lost; rows that have them are left alone. Returns how many had not.
    pub async fn reapply(&self, facts: &[Fact], home: Cluster) -> Result<usize, StoreError> {
        let ids: Vec<i64> = facts.iter().map(|f| f.id.0).collect();
        let rows_made: Vec<CreatedAt> = facts.iter().map(|f| f.row_made).collect();
        let attempts: Vec<AttemptNo> = facts.iter().map(|f| f.attempt).collect();
        let statuses: Vec<&str> = facts.iter().map(|f| f.status.as_str()).collect();
        let gateways: Vec<&str> = facts.iter().map(|f| f.gateway.as_ref()).collect();
        let refs: Vec<String> = facts.iter().map(|f| f.reference.encode()).collect();
        let rows = self
            .query(
                REAPPLY,
                &[
                    /* ids */ &ids,
                    /* rows made */ &rows_made,
                    /* attempts */ &attempts,
                    /* statuses */ &statuses,
                    /* gateways */ &gateways,
                    /* refs */ &refs,
                    /* timeline */ &home.timeline,
                ],
            )
            .await?;
        Ok(rows.len())
    }

    pub async fn witnesses(&self) -> Result<Witnesses, StoreError> {
        let rows = self.query(WITNESSES, &[]).await?;
        let mut witnesses = Witnesses::default();
        for row in &rows {
            let silent_before: Option<f64> = column(WITNESSES, row, 7)?;
            let last_sign: Option<f64> = column(WITNESSES, row, 8)?;
            let seconds = |s: f64| Duration::try_from_secs_f64(s).unwrap_or_default();
            witnesses.last_sign = last_sign.map(seconds);
            witnesses.all.push(Witness {
                instance: column(WITNESSES, row, 0)?,
                host: column(WITNESSES, row, 1)?,
                led: column(WITNESSES, row, 2)?,
                led_before: column(WITNESSES, row, 3)?,
                spoke: column(WITNESSES, row, 4)?,
                vouches: column(WITNESSES, row, 5)?,
                left: column(WITNESSES, row, 6)?,
                silent_before: silent_before.map(seconds),
            });
        }
        Ok(witnesses)
    }

    /// Nothing is uncertain any more in this epoch.
    pub async fn certain(&self, epoch: i64) -> Result<(), StoreError> {
        self.query(CERTAIN, &[/* epoch */ &epoch]).await?;
        Ok(())
    }

    /// How many messages are set aside as uncertain (at most 100,000 are counted), and whether anything is left to do.
    pub async fn uncertain(&self) -> Result<(i64, bool), StoreError> {
        let row = self.query_one(UNCERTAIN, &[]).await?;
        Ok((column(UNCERTAIN, &row, 0)?, column(UNCERTAIN, &row, 1)?))
    }

    /// Lets go what was set aside and is not uncertain any more. At most 1,000 a call.
    pub async fn release(&self) -> Result<usize, StoreError> {
        Ok(self.query(RELEASE, &[]).await?.len())
    }
}
