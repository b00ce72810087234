//! What `outboxd status` and the health pages show: read from the database alone, so that it works with the daemon down.

use serde::Serialize;

use crate::store::statement::{STATUS, STATUS_ALARMS, STATUS_DAEMONS, STATUS_GATEWAYS};
use crate::store::{Store, StoreError, column};

#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    pub queue: QueueStatus,
    pub gateways: Vec<GatewayStatus>,
    pub alarms: Vec<AlarmStatus>,
    pub daemons: Vec<DaemonStatus>,
}

#[derive(Debug, Clone, Serialize)]
pub struct QueueStatus {
    pub due: i64,
    pub scheduled: i64,
    pub held: i64,
    pub unknown: i64,
    /// Of those held: may have been sent before the database failed over.
    pub uncertain: i64,
    pub oldest_due_seconds: f64,
    pub all_held: bool,
    pub held_reason: Option<String>,
    pub epoch: i64,
    pub leader_host: Option<String>,
    pub leader_version: Option<String>,
    pub leader_seen_seconds_ago: Option<f64>,
    pub open_alarms: i64,
    pub receipts_overdue: i64,
}

#[derive(Debug, Clone, Serialize)]
pub struct GatewayStatus {
    pub name: String,
    pub state: String,
    pub reason: Option<String>,
    pub for_seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct AlarmStatus {
    pub code: String,
    pub subject: String,
    pub text: String,
    pub open_seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct DaemonStatus {
    pub instance: String,
    pub host: String,
    pub pid: i32,
    pub version: String,
    pub role: String,
    pub seen_seconds_ago: f64,
}

impl Store {
    pub async fn status(&self) -> Result<StatusReport, StoreError> {
        let row = self.query_one(STATUS, &[]).await?;
        let queue = QueueStatus {
            due: column(STATUS, &row, 0)?,
            scheduled: column(STATUS, &row, 1)?,
            held: column(STATUS, &row, 2)?,
            unknown: column(STATUS, &row, 3)?,
            oldest_due_seconds: column(STATUS, &row, 4)?,
            all_held: column(STATUS, &row, 5)?,
            held_reason: column(STATUS, &row, 6)?,
            epoch: column(STATUS, &row, 7)?,
            leader_host: column(STATUS, &row, 8)?,
            leader_version: column(STATUS, &row, 9)?,
            leader_seen_seconds_ago: column(STATUS, &row, 10)?,
            open_alarms: column(STATUS, &row, 11)?,
            receipts_overdue: column(STATUS, &row, 12)?,
            uncertain: column(STATUS, &row, 13)?,
        };
        let gateways = self.query(STATUS_GATEWAYS, &[]).await?;
        let alarms = self.query(STATUS_ALARMS, &[]).await?;
        let daemons = self.query(STATUS_DAEMONS, &[]).await?;
        Ok(StatusReport {
            queue,
            gateways: gateways
                .iter()
                .map(|row| {
                    Ok(GatewayStatus {
                        name: column(STATUS_GATEWAYS, row, 0)?,
                        state: column(STATUS_GATEWAYS, row, 1)?,
                        reason: column(STATUS_GATEWAYS, row, 2)?,
                        for_seconds: column(STATUS_GATEWAYS, row, 3)?,
                    })
                })
                .collect::<Result<_, StoreError>>()?,
            alarms: alarms
                .iter()
                .map(|row| {
                    Ok(AlarmStatus {
                        code: column(STATUS_ALARMS, row, 0)?,
                        subject: column(STATUS_ALARMS, row, 1)?,
                        text: column(STATUS_ALARMS, row, 2)?,
                        open_seconds: column(STATUS_ALARMS, row, 3)?,
                    })
                })
                .collect::<Result<_, StoreError>>()?,
            daemons: daemons
                .iter()
                .map(|row| {
                    Ok(DaemonStatus {
                        instance: column(STATUS_DAEMONS, row, 0)?,
                        host: column(STATUS_DAEMONS, row, 1)?,
                        pid: column(STATUS_DAEMONS, row, 2)?,
                        version: column(STATUS_DAEMONS, row, 3)?,
                        role: column(STATUS_DAEMONS, row, 4)?,
                        seen_seconds_ago: column(STATUS_DAEMONS, row, 5)?,
                    })
                })
                .collect::<Result<_, StoreError>>()?,
        })
    }
}
