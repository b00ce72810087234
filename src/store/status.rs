//! What `outboxd status` and the health pages show: read from the database alone, so that it works with the daemon down.

use std::time::Duration;

use serde::Serialize;

use crate::message::Lane;
use crate::store::statement::{SAMPLE, STATUS, STATUS_ALARMS, STATUS_DAEMONS, STATUS_GATEWAYS};
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

/// What waits, counted up to a limit.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    pub lanes: Vec<LaneSample>,
    pub held: i64,
    pub unknown: i64,
    /// Codes of the open alarms, one for each.
    pub alarms: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct LaneSample {
    pub lane: Lane,
    pub due: i64,
    /// How long the first of them has waited.
    pub oldest: Option<Duration>,
}

impl Store {
    /// Looks at the queue without reading more of it than `most` rows of a kind.
    pub async fn sample(&self, most: i64) -> Result<Sample, StoreError> {
        let rows = self.query(SAMPLE, &[/* most */ &most]).await?;
        let mut sample = Sample::default();
        for row in &rows {
            let lane: String = column(SAMPLE, row, 0)?;
            let seconds: Option<f64> = column(SAMPLE, row, 2)?;
            let oldest = seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
            let lane = Lane::parse(&lane).ok_or_else(|| StoreError::Answer {
                statement: SAMPLE.name,
                reason: "a lane that does not exist".to_owned(),
            })?;
            sample.lanes.push(LaneSample { lane, due: column(SAMPLE, row, 1)?, oldest });
            sample.held = column(SAMPLE, row, 3)?;
            sample.unknown = column(SAMPLE, row, 4)?;
        }
        let alarms = self.query(STATUS_ALARMS, &[]).await?;
        sample.alarms =
            alarms.iter().map(|row| column(STATUS_ALARMS, row, 0)).collect::<Result<_, StoreError>>()?;
        Ok(sample)
    }

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
