//! What the daemon shows to people and hears from them through the database: alarms, gateways, hold and resume; and the
//! register that the doorbell reads.

use std::time::Duration;

use crate::clock::Moment;
use crate::store::failover::Uncertain;
pub use crate::store::statement::CONTROL;
use crate::store::statement::{
    ACKNOWLEDGE, ALARM_CLEAR, ALARM_CLEAR_SINCE, ALARM_OPEN, DOORBELL, FAREWELL, GATEWAY_STATE, LOCK_HOLDERS,
    NUMBER_PLAN, REFUSALS_OVER, REGISTER, SLEEP_BARRIER, SLEEP_SETTLED,
};
use crate::store::{Store, StoreError, column};

/// Who a daemon is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Random name of this run.
    pub instance: String,
    pub host: String,
    pub pid: i32,
    pub version: &'static str,
    pub started: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Standby,
}

/// Microseconds since 1970 by the database's clock.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseClock {
    pub us: i64,
    /// When any daemon wrote its last heartbeat.
    pub last_sign_of_life_us: Option<i64>,
}

impl Role {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Standby => "standby",
        }
    }
}

/// What a person, or a daemon that took callbacks, may have asked for.
#[derive(Debug)]
pub struct Orders {
    /// Our epoch is still the present one.
    pub leads: bool,
    pub held: bool,
    pub held_reason: Option<String>,
    /// Gateways that are to be tried again.
    pub resumed: Vec<String>,
    /// Gateways that are to be stopped, and why.
    pub stopped: Vec<(String, String)>,
    pub clock: DatabaseClock,
    pub uncertain: Option<Uncertain>,
    /// Gateways that are sent one message a request until a person says otherwise.
    pub not_together: Vec<String>,
}

/// What the database says about the doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doorbell {
    /// The triggers are there and enabled.
    pub rings: bool,
    /// A transaction that rang cannot be prepared, so ringing would break applications that prepare theirs.
    pub prepared_transactions: bool,
    /// Row-level security hides no messages from us.
    pub sees_rows: bool,
}

/// Marks the moment after which a transaction cannot have seen the register say "awake".
#[derive(Debug)]
pub struct SleepBarrier {
    transaction: String,
    holders: Vec<String>,
}

impl Store {
    /// To be said after the last heartbeat, with everything recorded.
    pub async fn farewell(&self, me: &Identity) -> Result<(), StoreError> {
        self.query(FAREWELL, &[/* instance */ &me.instance]).await?;
        Ok(())
    }

    pub async fn orders(&self, epoch: i64) -> Result<Orders, StoreError> {
        let row = self.query_one(CONTROL, &[/* epoch */ &epoch, /* timeline */ &self.expected.get()]).await?;
        Ok(Orders {
            leads: column(CONTROL, &row, 0)?,
            held: column(CONTROL, &row, 1)?,
            held_reason: column(CONTROL, &row, 2)?,
            resumed: column(CONTROL, &row, 3)?,
            stopped: column::<Vec<String>>(CONTROL, &row, 4)?
                .into_iter()
                .zip(column::<Vec<String>>(CONTROL, &row, 5)?)
                .collect(),
            uncertain: Uncertain::of(CONTROL, &row, 6)?,
            not_together: column(CONTROL, &row, 11)?,
            clock: DatabaseClock {
                us: column(CONTROL, &row, 9)?,
                last_sign_of_life_us: column(CONTROL, &row, 10)?,
            },
        })
    }

    /// `state`: open, waiting or stopped. False: another epoch has begun, and its leader knows better.
    pub async fn show_gateway(
        &self,
        name: &str,
        state: &'static str,
        reason: Option<&str>,
        epoch: i64,
    ) -> Result<bool, StoreError> {
        let shown = self
            .query(
                GATEWAY_STATE,
                &[
                    /* name */ &name, /* state */ &state, /* reason */ &reason,
                    /* epoch */ &epoch,
                ],
            )
            .await?;
        Ok(!shown.is_empty())
    }

    pub async fn open_alarm(&self, code: &'static str, subject: &str, text: &str) -> Result<(), StoreError> {
        self.query(ALARM_OPEN, &[/* code */ &code, /* subject */ &subject, /* text */ &text]).await?;
        Ok(())
    }

    pub async fn clear_alarm(&self, code: &'static str, subject: &str) -> Result<(), StoreError> {
        self.query(ALARM_CLEAR, &[/* code */ &code, /* subject */ &subject]).await?;
        Ok(())
    }

    /// The same, unless it was raised longer ago than that.
    pub async fn clear_alarm_since(
        &self,
        code: &'static str,
        subject: &str,
        seconds: f64,
    ) -> Result<(), StoreError> {
        self.query(ALARM_CLEAR_SINCE, &[/* code */ &code, /* subject */ &subject, /* age */ &seconds])
            .await?;
        Ok(())
    }

    /// Clears alarms about refused requests that have been shown for long enough.
    pub async fn clear_old_refusals(&self) -> Result<(), StoreError> {
        self.query(REFUSALS_OVER, &[]).await?;
        Ok(())
    }

    /// A person has dealt with refused requests. Returns how many alarms that were.
    pub async fn acknowledge(&self) -> Result<i64, StoreError> {
        let row = self.query_one(ACKNOWLEDGE, &[]).await?;
        column(ACKNOWLEDGE, &row, 0)
    }

    /// How functions in SQL read national numbers.
    pub async fn set_number_plan(&self, country: Option<&str>, trunk: &str) -> Result<(), StoreError> {
        self.query(NUMBER_PLAN, &[/* country */ &country, /* trunk */ &trunk]).await?;
        Ok(())
    }

    /// Who holds a lock that can keep us from working, in words.
    pub async fn lock_holders(&self, of_rows: bool) -> Result<Option<String>, StoreError> {
        let row = self.query_one(LOCK_HOLDERS, &[/* of rows */ &of_rows]).await?;
        column(LOCK_HOLDERS, &row, 0)
    }

    pub async fn doorbell(&self) -> Result<Doorbell, StoreError> {
        let row = self.query_one(DOORBELL, &[]).await?;
        Ok(Doorbell {
            rings: column(DOORBELL, &row, 0)?,
            prepared_transactions: column(DOORBELL, &row, 1)?,
            sees_rows: column(DOORBELL, &row, 2)?,
        })
    }

    /// The doorbell stays silent for so long: we are looking anyway.
    pub async fn register_awake(&self, for_at_most: Duration) -> Result<(), StoreError> {
        self.query(REGISTER, &[/* sign */ &1_i64, /* seconds */ &for_at_most.as_secs_f64()]).await?;
        Ok(())
    }

    /// The doorbell rings for so long.
    pub async fn register_asleep(&self, for_at_most: Duration) -> Result<(), StoreError> {
        self.query(REGISTER, &[/* sign */ &-1_i64, /* seconds */ &for_at_most.as_secs_f64()]).await?;
        Ok(())
    }

    /// To be called after [`Store::register_asleep`] has returned.
    pub async fn sleep_barrier(&self) -> Result<SleepBarrier, StoreError> {
        let row = self.query_one(SLEEP_BARRIER, &[]).await?;
        Ok(SleepBarrier {
            transaction: column(SLEEP_BARRIER, &row, 0)?,
            holders: column(SLEEP_BARRIER, &row, 1)?,
        })
    }

    /// Once true, one more full look at the table finds everything that did not ring.
    pub async fn sleep_settled(&self, barrier: &SleepBarrier) -> Result<bool, StoreError> {
        let row = self
            .query_one(SLEEP_SETTLED, &[/* xid */ &barrier.transaction, /* holders */ &barrier.holders])
            .await?;
        column(SLEEP_SETTLED, &row, 0)
    }
}
