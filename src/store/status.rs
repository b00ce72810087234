//! What `outboxd status` and the health pages show: read from the database alone, so that it works with the daemon down.

use serde::Serialize;

use crate::store::{Statement, Store, StoreError, column, statement};

const STATUS: Statement = statement!("daemon/status");
const GATEWAYS: Statement = statement!("daemon/status_gateways");
const ALARMS: Statement = statement!("daemon/status_alarms");
const DAEMONS: Statement = statement!("daemon/status_daemons");

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
        };
        let gateways = self.query(GATEWAYS, &[]).await?;
        let alarms = self.query(ALARMS, &[]).await?;
        let daemons = self.query(DAEMONS, &[]).await?;
        Ok(StatusReport {
            queue,
            gateways: gateways
                .iter()
                .map(|row| {
                    Ok(GatewayStatus {
                        name: column(GATEWAYS, row, 0)?,
                        state: column(GATEWAYS, row, 1)?,
                        reason: column(GATEWAYS, row, 2)?,
                        for_seconds: column(GATEWAYS, row, 3)?,
                    })
                })
                .collect::<Result<_, StoreError>>()?,
            alarms: alarms
                .iter()
                .map(|row| {
                    Ok(AlarmStatus {
                        code: column(ALARMS, row, 0)?,
                        subject: column(ALARMS, row, 1)?,
                        text: column(ALARMS, row, 2)?,
                        open_seconds: column(ALARMS, row, 3)?,
                    })
                })
                .collect::<Result<_, StoreError>>()?,
            daemons: daemons
                .iter()
                .map(|row| {
                    Ok(DaemonStatus {
                        instance: column(DAEMONS, row, 0)?,
                        host: column(DAEMONS, row, 1)?,
                        pid: column(DAEMONS, row, 2)?,
                        version: column(DAEMONS, row, 3)?,
                        role: column(DAEMONS, row, 4)?,
                        seen_seconds_ago: column(DAEMONS, row, 5)?,
                    })
                })
                .collect::<Result<_, StoreError>>()?,
        })
    }
}
