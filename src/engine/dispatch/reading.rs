//! Taking pages of rows in: judge, compose, route, queue.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, trace};

use crate::clock::Moment;
use crate::compose::{Composer, Templates};
use crate::engine::Event;
use crate::engine::dispatch::{Dispatch, Judged, TemplateState};
use crate::engine::plan::{PageEnd, Read, Ready};
use crate::message::{AttemptNo, Lane, Status, TemplateRow};
use crate::store::StoreError;
use crate::store::queue::{self, Discover, DueRow};
use crate::telemetry::WAY;
use crate::text::code;

/// The row was due for too long to be sent without asking.
const HELD_STALE: &str = "held_stale";
/// It was queued before a failover, and nobody could tell what was sent in what that lost.
const FAILOVER_UNCERTAIN: &str = "failover_uncertain";

impl Dispatch {
    /// Starts whatever is to be read.
    pub(super) fn read_on(&mut self, now: Moment) {
        // One reading at a time: the result of an earlier one must not pass for the final word of a later one.
        if self.templates == TemplateState::Stale && !self.reading_templates {
            self.load_templates();
        }
        for lane in Lane::ALL {
            while let Some(read) = self.plan.next_read(lane, now) {
                self.discover(read);
            }
        }
    }

    fn discover(&mut self, read: Read) {
        let what = Discover {
            lane: read.lane,
            after: read.after,
            up_to: read.up_to,
            without_gateways: read.without_gateways.clone(),
            limit: i64::try_from(read.limit).unwrap_or(i64::MAX),
        };
        let store = self.store.clone();
        self.ask(async move {
            let begun = Instant::now();
            let rows = store.discover(&what).await;
            Some(Event::Page { read, rows, cost: begun.elapsed() })
        });
    }

    pub(super) fn page_came(
        &mut self,
        read: &Read,
        rows: Result<Vec<DueRow>, StoreError>,
        cost: Duration,
        now: Moment,
    ) {
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                self.plan.read_failed(read);
                self.database_failed(&error, now);
                return;
            }
        };
        self.database_works(queue::DISCOVER, now);
        let page =
            PageEnd { last: rows.last().map(|due| due.row.position()), full: rows.len() >= read.limit, cost };
        if let Some(due) = rows.last() {
            self.plan.set_database_time(due.clock_us, now);
        }
        // A term that ended meanwhile took the plan's memory with it: then these rows are nobody's.
        let held_before = self.plan.held();
        if self.may_send() {
            for due in rows {
                if !self.plan.is_known(due.row.id, due.row.version) {
                    self.judge(due);
                }
            }
        }
        // Rows that a stopped gateway leaves in the table are not news: they must not keep us awake.
        let new = self.plan.held().saturating_sub(held_before);
        if new > 0 {
            debug!(lane = %read.lane, kind = ?read.kind, rows = new, ?cost, "read");
        }
        self.wakefulness.found(new, self.plan.has_backlog(), now);
        self.clockwork.rows_came();
        self.plan.page_read(read, page, now);
    }

    fn judge(&mut self, due: DueRow) {
        // First: what is expired was not sent, and of this nobody knows.
        if self.is_uncertain(&due) {
            let judged = Judged::of(&due);
            self.write_judgement(
                &judged,
                Status::Queued,
                true,
                FAILOVER_UNCERTAIN,
                "it was queued when the database failed over, and may have been sent in what that lost; find out, then \
                 sms.cancel(id) gives it up and sms.retry(id, force => true) sends it, perhaps twice",
            );
        } else if due.expired == Some(true) {
            self.write_judgement(
                &Judged::of(&due),
                Status::Expired,
                false,
                "expired",
                expired(due.row.attempts),
            );
        } else if self.is_stale(&due) {
            let hours = due.due_for.as_secs() / 3600;
            let reason = format!(
                "it has been due for {hours} h {} min, too long to be sent without asking; sms.retry(id) sends it all the \
                 same, sms.cancel(id) gives it up",
                due.due_for.as_secs() / 60 % 60
            );
            self.write_judgement(&Judged::of(&due), Status::Queued, true, HELD_STALE, &reason);
        } else if due.row.template.is_some() && self.templates != TemplateState::Loaded {
            self.put_in_doubt(due);
        } else {
            self.prepare(due, false);
        }
    }

    /// `final_word`: the templates were read after this row.
    fn prepare(&mut self, due: DueRow, final_word: bool) {
        let row = &due.row;
        let composed = self.composer.compose(row).and_then(|draft| {
            let gateway = self.router.choose(row.gateway.as_deref(), &draft.recipient, row.lane)?;
            Ok((gateway, draft))
        });
        match composed {
            Ok((gateway, draft)) => {
                trace!(target: WAY, message_id = row.id.0, "read");
                let alone = self.alone.contains(&row.id);
                let alike = self.gateways[gateway].together.alike(row.id, &draft, alone);
                let ready = Ready {
                    id: row.id,
                    version: row.version,
                    lane: row.lane,
                    position: row.position(),
                    row_made: row.row_made,
                    attempts: row.attempts,
                    draft,
                    alike,
                };
                self.plan.offer(gateway, ready);
            }
            // The row may have been inserted together with its template: look at the templates again first.
            Err(refusal)
                if !final_word
                    && matches!(
                        refusal.code,
                        code::UNKNOWN_TEMPLATE | code::BAD_TEMPLATE | code::MISSING_PARAMETER
                    ) =>
            {
                self.put_in_doubt(due);
            }
            Err(refusal) => {
                debug!(message_id = row.id.0, code = refusal.code, "refused");
                self.write_judgement(&Judged::of(&due), Status::Failed, false, refusal.code, &refusal.reason);
            }
        }
    }

    fn put_in_doubt(&mut self, due: DueRow) {
        self.plan.set_aside(due.row.id, due.row.lane, due.row.version);
        self.doubtful.push(due);
        if self.templates == TemplateState::Loaded {
            self.templates = TemplateState::Stale;
        }
    }

    /// Nothing will be sent for now, and everything is read again before it is.
    pub(super) fn forget_doubtful(&mut self) {
        for due in self.doubtful.drain(..) {
            // Nobody would record it any more: without this, it would stay taken for ever.
            self.plan.recorded(due.row.id, None);
        }
        self.clockwork.doubtful_covered = 0;
    }

    /// A retry or a schedule counts from its own time, so old rows that somebody asked for are not stale.
    fn is_stale(&self, due: &DueRow) -> bool {
        let limit = match due.row.lane {
            Lane::Urgent => self.config.queue.stale_after_urgent,
            Lane::Normal | Lane::Bulk => self.config.queue.stale_after,
        };
        // Its author said until when it makes sense.
        due.expired.is_none() && limit.is_some_and(|limit| due.due_for > limit)
    }

    fn load_templates(&mut self) {
        self.templates = TemplateState::Loading;
        self.reading_templates = true;
        let store = self.store.clone();
        // Rows that come into doubt from here on are not covered by this reading.
        let covered = self.doubtful.len();
        self.clockwork.doubtful_covered = covered;
        self.ask(async move { Some(Event::Templates(store.templates().await)) });
    }

    pub(super) fn templates_came(&mut self, rows: Result<Vec<TemplateRow>, StoreError>, now: Moment) {
        self.reading_templates = false;
        match rows {
            Ok(rows) => {
                self.database_works(queue::TEMPLATES, now);
                self.composer = Composer::new(self.config.text.clone(), Templates::new(rows));
                let still = self.templates == TemplateState::Loading;
                let covered = self.clockwork.doubtful_covered.min(self.doubtful.len());
                let uncovered = self.doubtful.split_off(covered);
                let covered = std::mem::take(&mut self.doubtful);
                self.templates = if still { TemplateState::Loaded } else { TemplateState::Stale };
                for due in covered {
                    self.judge_again(due, true);
                }
                if still {
                    // Only waiting for this reading to end. One that needs a newer one says so.
                    for due in uncovered {
                        self.judge_again(due, false);
                    }
                } else {
                    self.doubtful.extend(uncovered);
                }
            }
            Err(error) => {
                self.templates = TemplateState::Stale;
                self.database_failed(&error, now);
            }
        }
    }

    fn judge_again(&mut self, due: DueRow, final_word: bool) {
        self.plan.recorded(due.row.id, None);
        if self.may_send() {
            self.prepare(due, final_word);
        }
    }
}

/// Of a row that was given up as unknown and queued again, nobody knows that it was not sent.
const fn expired(attempts: AttemptNo) -> &'static str {
    match attempts {
        0 => "expires_at passed before it could be sent",
        _ => {
            "expires_at passed before it could be sent again; if an earlier attempt had no answer, outboxd.attempt says so"
        }
    }
}
