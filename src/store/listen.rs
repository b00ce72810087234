//! The LISTEN connection: hints that something may have changed. A hint is never needed for correctness; the poll is.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, Connection, Socket};

use crate::config::Database;
use crate::store::connect::TlsStream;
use crate::store::failover::Expected;
use crate::store::{Store, StoreError, connect, plain};

/// What came over the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A row was inserted or edited while the daemon slept.
    Ring,
    /// A person asked for something: hold, resume, adopt.
    Control,
    Templates,
    /// Our own test came back.
    Echo(u64),
}

/// A connection that listens on the channel `outboxd`.
pub struct Listener {
    client: Client,
    connection: Connection<Socket, TlsStream>,
    timeout: Duration,
    instance: String,
    expected: Expected,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl Listener {
    /// Connects and listens; when this returns, every later notification will be heard.
    pub async fn connect(database: &Database, store: &Store, instance: &str) -> Result<Listener, StoreError> {
        let Some(sessions) = database.sessions() else {
            // Not asked for: the configuration is refused, or the doorbell is left alone.
            return Err(StoreError::Unavailable("no notification comes through the pooler".to_owned()));
        };
        let expected = store.expected.clone();
        let (client, connection) = connect::direct(sessions, &expected, "-c search_path=pg_catalog").await?;
        let instance = instance.to_owned();
        let mut listener = Listener { client, connection, timeout: database.timeout, instance, expected };
        listener.execute("LISTEN outboxd").await?;
        Ok(listener)
    }

    /// Sends a notification to ourselves through the server: it comes back as [`Heard::Echo`], now or later.
    pub async fn test(&mut self, number: u64) -> Result<Vec<Heard>, StoreError> {
        // On an old primary that came back nobody rings.
        let timeline = self.expected.get().map_or_else(|| "NULL".to_owned(), |timeline| timeline.to_string());
        let sql = format!(
            "SELECT pg_notify('outboxd', 'echo:{}:{number}') WHERE outboxd.expect_timeline({timeline})",
            self.instance
        );
        self.execute(&sql).await
    }

    /// Runs a statement while keeping the connection going; returns what was heard meanwhile.
    async fn execute(&mut self, sql: &str) -> Result<Vec<Heard>, StoreError> {
        let (heard_tx, mut heard_rx) = mpsc::channel(16);
        let Listener { client, connection, timeout, instance, expected: _ } = self;
        let drive = poll_fn(|cx| drive(connection, cx, instance, &heard_tx));
        let failed = |reason: String| StoreError::InDoubt { statement: "listen", reason };
        tokio::select! {
            done = client.batch_execute(sql) => done.map_err(|error| failed(plain(&error)))?,
            ended = drive => return Err(failed(ended)),
            () = tokio::time::sleep(*timeout) => return Err(failed(format!("no answer within {timeout:?}"))),
        }
        Ok(std::iter::from_fn(|| heard_rx.try_recv().ok()).collect())
    }

    /// Waits for the next notification. Cancel-safe.
    pub async fn hear(&mut self) -> Result<Heard, StoreError> {
        loop {
            let message = poll_fn(|cx| self.connection.poll_message(cx)).await;
            match message {
                Some(Ok(AsyncMessage::Notification(notification))) => {
                    if let Some(heard) = understand(notification.payload(), &self.instance) {
                        return Ok(heard);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return Err(StoreError::InDoubt { statement: "listen", reason: plain(&error) });
                }
                None => {
                    return Err(StoreError::InDoubt {
                        statement: "listen",
                        reason: "the connection was closed".to_owned(),
                    });
                }
            }
        }
    }
}

/// Polls the connection until it ends, passing on what is heard; a full channel drops hints, which is harmless.
fn drive(
    connection: &mut Connection<Socket, TlsStream>,
    cx: &mut Context<'_>,
    instance: &str,
    heard: &mpsc::Sender<Heard>,
) -> Poll<String> {
    loop {
        match Pin::new(&mut *connection).poll_message(cx) {
            Poll::Ready(Some(Ok(AsyncMessage::Notification(notification)))) => {
                if let Some(what) = understand(notification.payload(), instance) {
                    let _full = heard.try_send(what);
                }
            }
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => return Poll::Ready(plain(&error)),
            Poll::Ready(None) => return Poll::Ready("the connection was closed".to_owned()),
            Poll::Pending => return Poll::Pending,
        }
    }
}

fn understand(payload: &str, instance: &str) -> Option<Heard> {
    match payload {
        "ring" => Some(Heard::Ring),
        "control" => Some(Heard::Control),
        "templates" => Some(Heard::Templates),
        other => {
            // Other daemons on the same outbox test their own ears.
            let number = other.strip_prefix("echo:")?.strip_prefix(instance)?.strip_prefix(':')?;
            number.parse().ok().map(Heard::Echo)
        }
    }
}
