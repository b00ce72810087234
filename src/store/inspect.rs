//! What `outboxd check` looks at in the database: the server, the role's privileges, statements, triggers and indexes.
//!
//! Judges nothing: what is good or bad about it, and what to do, is said by the command.

use crate::config::Database;
use crate::message::Status;
use crate::store::statement::{
    ALL, CHECK_ARROWS, CHECK_COLUMNS, CHECK_GRANTS, CHECK_HORIZON, CHECK_INDEXES, CHECK_SERVER,
    CHECK_TRIGGERS, PLACE,
};
use crate::store::{Store, StoreError, classify, column};

/// Where we are connected, and as whom.
#[derive(Debug, Clone)]
pub struct Server {
    /// For example 150014.
    pub version_num: i32,
    pub version: String,
    pub user: String,
    pub database: String,
    /// A replica: nothing can be written.
    pub in_recovery: bool,
    /// For example `TLSv1.3`; `None`: not encrypted.
    pub tls: Option<String>,
    /// Above 0, applications may use two-phase commit, and a transaction that rang the doorbell cannot.
    pub max_prepared_transactions: i32,
    pub role: RoleStanding,
    /// Its clock when it answered: seconds since 1970.
    pub clock: f64,
}

/// What the connected role is, apart from single privileges.
#[derive(Debug, Clone, Copy)]
pub struct RoleStanding {
    pub superuser: bool,
    pub owns_outbox: bool,
    /// Sees no rows without [`RoleStanding::has_daemon_role`], whatever it was granted.
    pub needs_daemon_role: bool,
    pub has_daemon_role: bool,
}

/// A privilege that is needed and missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingGrant {
    pub object: String,
    pub privilege: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    pub name: String,
    pub part: TriggerPart,
    pub exists: bool,
    pub fires: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerPart {
    /// Of the doorbell.
    Doorbell,
    /// Keeps rows sound.
    Sound,
    /// The site's own, which may change a row after that.
    Later,
}

/// Somebody who may still look at an old state of the database, so that its dead rows stay.
#[derive(Debug, Clone, PartialEq)]
pub struct Pin {
    pub kind: PinKind,
    /// Process id, name of the transaction, of the slot, or of the standby.
    pub name: String,
    pub about: String,
    /// How many transactions have begun since.
    pub transactions: i64,
    /// `None`: not known.
    pub seconds: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinKind {
    Session,
    /// By `hot_standby_feedback`, without a slot.
    Standby,
    Prepared,
    /// Nobody is connected to it.
    Slot,
    /// A standby is connected to it, and holds the horizon back through it.
    UsedSlot,
    /// A logical one: keeps dead rows of the system catalogs, and none of the outbox.
    CatalogSlot,
}

/// One database among all there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub system_identifier: i64,
    pub oid: u32,
    pub database: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // PostgreSQL's tools print it unsigned.
        write!(f, "{} of cluster {}", self.database, self.system_identifier.cast_unsigned())
    }
}

/// A statement that the server would not run, because of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    pub statement: &'static str,
    pub reason: String,
}

/// A column of the outbox with another type than the one that it was made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retyped {
    pub column: String,
    pub present: String,
    pub wanted: String,
}

impl Store {
    async fn place(&self) -> Result<Place, StoreError> {
        let row = self.query_one(PLACE, &[]).await?;
        Ok(Place {
            system_identifier: column(PLACE, &row, 0)?,
            oid: column(PLACE, &row, 1)?,
            database: column(PLACE, &row, 2)?,
        })
    }

    /// Takes the second way and looks where it leads. An error unless that is the database where this store's
    /// statements go: a lock over there would not lock this one.
    pub async fn compare_ways(&self, direct: &Database) -> Result<(), StoreError> {
        let (here, there) = (self.place().await?, Store::open(direct)?.place().await?);
        if here == there {
            return Ok(());
        }
        Err(StoreError::WrongWay {
            what: format!("direct_url leads to {there}, url to {here}"),
            advice: "both must lead to the same database: the lock in one protects what is sent from the other",
        })
    }

    /// Whether a statement comes through while a transaction is open, as it is all the time when the leader's lock
    /// has no other way.
    pub async fn passes_beside_a_transaction(&self) -> Result<(), StoreError> {
        let open = self.begin(PLACE, 2 * self.timeout).await?;
        self.place().await?;
        open.commit().await
    }

    pub async fn server(&self) -> Result<Server, StoreError> {
        let row = self.query_one(CHECK_SERVER, &[]).await?;
        Ok(Server {
            version_num: column(CHECK_SERVER, &row, 0)?,
            version: column(CHECK_SERVER, &row, 1)?,
            user: column(CHECK_SERVER, &row, 2)?,
            database: column(CHECK_SERVER, &row, 3)?,
            in_recovery: column(CHECK_SERVER, &row, 4)?,
            tls: column(CHECK_SERVER, &row, 5)?,
            max_prepared_transactions: column(CHECK_SERVER, &row, 6)?,
            role: RoleStanding {
                superuser: column(CHECK_SERVER, &row, 7)?,
                owns_outbox: column(CHECK_SERVER, &row, 8)?,
                needs_daemon_role: column(CHECK_SERVER, &row, 9)?,
                has_daemon_role: column(CHECK_SERVER, &row, 10)?,
            },
            clock: column(CHECK_SERVER, &row, 11)?,
        })
    }

    pub async fn missing_grants(&self) -> Result<Vec<MissingGrant>, StoreError> {
        let rows = self.query(CHECK_GRANTS, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(MissingGrant {
                    object: column(CHECK_GRANTS, row, 0)?,
                    privilege: column(CHECK_GRANTS, row, 1)?,
                })
            })
            .collect()
    }

    pub async fn triggers(&self) -> Result<Vec<Trigger>, StoreError> {
        let rows = self.query(CHECK_TRIGGERS, &[]).await?;
        rows.iter()
            .map(|row| {
                let part: String = column(CHECK_TRIGGERS, row, 1)?;
                Ok(Trigger {
                    name: column(CHECK_TRIGGERS, row, 0)?,
                    part: match part.as_str() {
                        "doorbell" => TriggerPart::Doorbell,
                        "sound" => TriggerPart::Sound,
                        _ => TriggerPart::Later,
                    },
                    exists: column(CHECK_TRIGGERS, row, 2)?,
                    fires: column(CHECK_TRIGGERS, row, 3)?,
                })
            })
            .collect()
    }

    /// Has the server read every statement without running any: a column that is missing or has another type is found
    /// before a message waits for it.
    pub async fn unusable_statements(&self) -> Result<Vec<Unusable>, StoreError> {
        let client = self.connection().await?;
        let work = async {
            let mut unusable = Vec::new();
            for statement in ALL {
                match self.way.read(&client, *statement).await.map_err(|error| classify(*statement, &error)) {
                    Ok(_) => {}
                    Err(StoreError::Refused { statement, reason }) => {
                        unusable.push(Unusable { statement, reason });
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(unusable)
        };
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {:?}", self.timeout))))
    }

    /// Changes of state that the database allows and the program does not, or the other way round.
    pub async fn wrong_arrows(&self) -> Result<Vec<(Status, Status)>, StoreError> {
        let all: Vec<&str> = Status::ALL.iter().map(|status| status.as_str()).collect();
        let rows = self.query(CHECK_ARROWS, &[/* statuses */ &all]).await?;
        let allowed: Vec<(String, String)> = rows
            .iter()
            .map(|row| Ok((column(CHECK_ARROWS, row, 0)?, column(CHECK_ARROWS, row, 1)?)))
            .collect::<Result<_, StoreError>>()?;
        let is_allowed =
            |from: Status, to: Status| allowed.iter().any(|(f, t)| f == from.as_str() && t == to.as_str());
        let arrows = Status::ALL.iter().flat_map(|from| Status::ALL.iter().map(move |to| (*from, *to)));
        Ok(arrows.filter(|(from, to)| from.may_become(*to) != is_allowed(*from, *to)).collect())
    }

    /// Columns whose type is not the one that they should have.
    pub async fn retyped_columns(&self) -> Result<Vec<Retyped>, StoreError> {
        let rows = self.query(CHECK_COLUMNS, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(Retyped {
                    column: column(CHECK_COLUMNS, row, 0)?,
                    present: column(CHECK_COLUMNS, row, 1)?,
                    wanted: column(CHECK_COLUMNS, row, 2)?,
                })
            })
            .collect()
    }

    /// Who keeps dead rows from being removed, oldest first.
    pub async fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let rows = self.query(CHECK_HORIZON, &[]).await?;
        rows.iter()
            .map(|row| {
                let kind: String = column(CHECK_HORIZON, row, 0)?;
                Ok(Pin {
                    kind: match kind.as_str() {
                        "standby" => PinKind::Standby,
                        "prepared" => PinKind::Prepared,
                        "slot" => PinKind::Slot,
                        "used_slot" => PinKind::UsedSlot,
                        "catalog_slot" => PinKind::CatalogSlot,
                        _ => PinKind::Session,
                    },
                    name: column(CHECK_HORIZON, row, 1)?,
                    about: column(CHECK_HORIZON, row, 2)?,
                    transactions: column(CHECK_HORIZON, row, 3)?,
                    seconds: column(CHECK_HORIZON, row, 4)?,
                })
            })
            .collect()
    }

    pub async fn missing_indexes(&self) -> Result<Vec<String>, StoreError> {
        let rows = self.query(CHECK_INDEXES, &[]).await?;
        rows.iter().map(|row| column(CHECK_INDEXES, row, 0)).collect()
    }
}
