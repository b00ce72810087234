//! The part of the daemon that watches the others: it serves `/metrics`, `/livez` and `/readyz`, feeds the service
//! manager's watchdog, and tells it what the daemon is doing.
//!
//! It runs on a thread and a runtime of its own, with a connection of its own to the database, and shares nothing with
//! the rest but atomics: when the rest is wedged, it can still say so. It writes no log of its own while it does, since a
//! log that nobody reads is one way to be wedged.

mod keeper;
mod look;
mod page;
mod process;
mod socket;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming as Body;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{error, info};

use crate::clock;
use crate::config::{self, AdminListen, Config};
use crate::daemon::admin::keeper::Keeper;
use crate::daemon::admin::look::{Looks, Reached};
use crate::daemon::admin::socket::Bound;
use crate::daemon::listener::{self, Quiet, Site};
use crate::engine::life::Life;
use crate::metrics::progress::Stall;
use crate::metrics::{Page, Phase, Role};

/// The way to the thread. Lives as long as the process.
pub(super) struct Admin {
    assignment: watch::Sender<Option<Arc<Assignment>>>,
    open: Option<(AdminListen, Arc<Bound>)>,
}

/// What is to be served from now on.
struct Assignment {
    bound: Arc<Bound>,
    settings: config::Admin,
    database: config::Database,
}

impl Admin {
    pub(super) fn start(life: &Arc<Life>) -> anyhow::Result<Admin> {
        let (assignment, assigned) = watch::channel(None);
        let life = Arc::clone(life);
        let (started, has_started) = std::sync::mpsc::sync_channel(1);
        // The thread makes its runtime itself: if there can be no thread, a runtime that was meant for it would be dropped
        // here, inside of ours, which tokio does not allow.
        let serve = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let _ = started.send(Ok(()));
                runtime.block_on(keep(life, assigned));
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        };
        std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(serve)
            .context("could not start the admin thread")?;
        has_started
            .recv()
            .context("the admin thread ended at once")?
            .context("could not start the admin thread's runtime")?;
        Ok(Admin { assignment, open: None })
    }

    /// Serves what the configuration says. An address that is listened on already stays open.
    pub(super) fn assign(&mut self, config: &Config) -> anyhow::Result<()> {
        let Some(settings) = &config.admin else {
            self.leave();
            self.assignment.send_replace(None);
            return Ok(());
        };
        if self.open.as_ref().is_none_or(|(listen, _)| *listen != settings.listen) {
            let bound = Bound::bind(&settings.listen)
                .with_context(|| format!("could not listen for admin pages on {}", settings.listen))?;
            info!(address = %settings.listen, "serving admin pages");
            self.leave();
            self.open = Some((settings.listen.clone(), Arc::new(bound)));
        }
        if let Some((_, bound)) = &self.open {
            let assignment = Assignment {
                bound: Arc::clone(bound),
                settings: settings.clone(),
                database: config.database.clone(),
            };
            self.assignment.send_replace(Some(Arc::new(assignment)));
        }
        Ok(())
    }

    /// The same after a reload, where a fault must not end a daemon that runs.
    pub(super) fn assign_again(&mut self, config: &Config) {
        if let Err(fault) = self.assign(config) {
            error!("the admin pages stay where they were: {fault:#}");
        }
    }
}

impl Admin {
    fn leave(&mut self) {
        if let Some((_, bound)) = self.open.take() {
            bound.leave();
        }
    }
}

impl Drop for Admin {
    /// The process may end before the thread hears of it.
    fn drop(&mut self) {
        self.leave();
    }
}

/// The thread: until the process ends.
async fn keep(life: Arc<Life>, mut assigned: watch::Receiver<Option<Arc<Assignment>>>) {
    let mut keeper = Keeper::new(Arc::clone(&life));
    let mut ticks = tokio::time::interval(keeper.pause());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut listeners = JoinSet::new();
    let mut closing: Option<watch::Sender<bool>> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => keeper.tick(),
            changed = assigned.changed() => {
                if changed.is_err() {
                    return;
                }
                // Whoever is connected to the one before is answered by it.
                if let Some(closing) = closing.take() {
                    let _ = closing.send(true);
                }
                let assignment = assigned.borrow_and_update().clone();
                if let Some(assignment) = assignment {
                    let (sender, is_closing) = watch::channel(false);
                    closing = Some(sender);
                    listeners.spawn(listen(Arc::clone(&life), assignment, is_closing));
                }
            }
            Some(_) = listeners.join_next() => {}
        }
    }
}

async fn listen(life: Arc<Life>, assignment: Arc<Assignment>, closing: watch::Receiver<bool>) {
    let Assignment { bound, settings, database } = &*assignment;
    let prepared = bound.socket().context("could not listen").and_then(|socket| {
        Ok((socket, Looks::new(database).context("could not prepare a connection to PostgreSQL")?))
    });
    let (socket, looks) = match prepared {
        Ok(prepared) => prepared,
        Err(fault) => {
            error!("no admin pages are served: {fault:#}");
            return;
        }
    };
    let site = Pages { life, looks, timeout: settings.timeout, quiet: Quiet::about("admin pages") };
    listener::serve(listener::Parts {
        socket: Arc::new(socket),
        certificate: None,
        site: Arc::new(site),
        max_connections: settings.max_connections,
        timeout: settings.timeout,
        closing,
    })
    .await;
}

/// What is shown under which path.
struct Pages {
    life: Arc<Life>,
    looks: Looks,
    timeout: Duration,
    quiet: Quiet,
}

struct Answer {
    status: StatusCode,
    content_type: &'static str,
    text: String,
}

impl Answer {
    fn text(status: StatusCode, text: impl Into<String>) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", text: text.into() }
    }
}

impl Site for Pages {
    async fn answer(&self, request: Request<Body>, _: Option<IpAddr>) -> Response<Full<Bytes>> {
        let answer = match tokio::time::timeout(self.timeout, self.page(&request)).await {
            Ok(answer) => answer,
            Err(_) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, "too slow\n"),
        };
        let mut response = Response::new(Full::new(Bytes::from(answer.text)));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn quiet(&self) -> &Quiet {
        &self.quiet
    }
}

impl Pages {
    async fn page(&self, request: &Request<Body>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        }
        match request.uri().path() {
            "/" => Answer::text(
                StatusCode::OK,
                "outboxd\n\n/metrics  counters and gauges, for Prometheus\n/livez    200 while the process gets on\n\
                 /readyz   200 while it leads or stands by, and the database is there\n",
            ),
            "/metrics" => {
                let mut page = Page::default();
                page::write(&mut page, &self.life.metrics, &self.looks).await;
                Answer { content_type: Page::CONTENT_TYPE, ..Answer::text(StatusCode::OK, page.into_text()) }
            }
            "/livez" => match self.life.progress.stalls(clock::now()).as_slice() {
                [] => Answer::text(StatusCode::OK, "alive\n"),
                stalls => {
                    Answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("wedged: {}\n", told(stalls)))
                }
            },
            "/readyz" => match self.readiness().await {
                Ok(role) => Answer::text(StatusCode::OK, format!("ready: {role}\n")),
                Err(reason) => {
                    Answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"))
                }
            },
            _ => Answer::text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    /// What it is ready for, or why it is not.
    async fn readiness(&self) -> Result<&'static str, String> {
        match self.life.metrics.phase() {
            Phase::Starting => return Err("waiting for the database".to_owned()),
            Phase::Reloading => return Err("reading the configuration again".to_owned()),
            Phase::Stopping => return Err("stopping".to_owned()),
            Phase::Running => {}
        }
        let stalls = self.life.progress.stalls(clock::now());
        if !stalls.is_empty() {
            return Err(format!("wedged: {}", told(&stalls)));
        }
        match self.looks.reach().await {
            Reached::Fits => {}
            Reached::Unfit(reason) | Reached::Not(reason) => return Err(reason),
        }
        match self.life.metrics.role() {
            Role::Leader => Ok("leads"),
            Role::Standby => Ok("stands by"),
            Role::None => {
                Err("the database is there, and this daemon neither leads nor stands by yet".to_owned())
            }
        }
    }
}

/// `dispatch for 12s`.
fn told(stalls: &[Stall]) -> String {
    let each = stalls.iter().map(|stall| format!("{} for {}s", stall.part.as_str(), stall.since.as_secs()));
    each.collect::<Vec<_>>().join(", ")
}
