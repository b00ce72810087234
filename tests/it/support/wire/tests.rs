//! The proxy itself: that each fault is what it says, seen from both ends.

use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::super::eventually;
use super::super::postgres::TestDb;
use super::{Calls, Cut, Door, Fault, Kind, Wire};

const LIMIT: Duration = Duration::from_secs(20);
/// Longer than a call that is not held up takes, and short enough to wait for in vain.
const NO_ANSWER: Duration = Duration::from_millis(300);
const INSERT: &str = "-- outboxd: note\nINSERT INTO public.note DEFAULT VALUES";

struct Bench {
    db: TestDb,
    wire: Wire,
    direct: Client,
}

impl Bench {
    async fn new(hint: &str) -> Bench {
        let db = TestDb::create_empty(hint).await;
        let direct = db.client().await;
        direct.batch_execute("CREATE TABLE public.note ()").await.unwrap();
        Bench { db, wire: Wire::to_cluster(), direct }
    }

    async fn dial(&self) -> Result<Client, tokio_postgres::Error> {
        Ok(self.dial_for_task().await?.0)
    }

    /// Also the task that keeps the socket: a client that is dropped waits for its answers first.
    async fn dial_for_task(&self) -> Result<(Client, AbortHandle), tokio_postgres::Error> {
        let url = self.wire.url("postgres", self.db.name());
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
        Ok((client, tokio::spawn(connection).abort_handle()))
    }

    async fn connect(&self) -> Client {
        self.dial().await.unwrap()
    }

    async fn notes(&self) -> i64 {
        self.direct.query_one("SELECT count(*) FROM public.note", &[]).await.unwrap().get(0)
    }

    /// Waits until the server has no connection of ours but the direct one.
    async fn until_server_is_rid_of_us(&self) {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        eventually(LIMIT, "the server's side has ended too", async || {
            let others: i64 = self.direct.query_one(sql, &[]).await.unwrap().get(0);
            if others == 0 { Ok(()) } else { Err(others) }
        })
        .await;
    }
}

fn names(wire: &Wire) -> Vec<(Kind, String)> {
    wire.seen().into_iter().map(|call| (call.kind, call.name)).collect()
}

#[tokio::test]
async fn calls_pass_and_are_written_down_by_name() {
    let bench = Bench::new("wire_pass").await;
    let mut client = bench.connect().await;
    client.execute(INSERT, &[]).await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute(INSERT).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(bench.notes().await, 2);
    let seen = names(&bench.wire);
    let named = |kind, name: &str| (kind, name.to_owned());
    assert_eq!(
        seen,
        [
            named(Kind::Connect, "connect"),
            named(Kind::Prepare, "note"),
            named(Kind::Run, "note"),
            named(Kind::Run, "start"),
            named(Kind::Run, "note"),
            named(Kind::Run, "commit(note)"),
        ]
    );
    assert_eq!((bench.wire.count(), bench.wire.connections()), (6, 1));
    drop(client);
    bench.until_server_is_rid_of_us().await;
}

#[tokio::test]
async fn a_cut_before_the_call_undoes_it_and_a_cut_after_it_does_not() {
    for (fault, notes) in [
        (Fault::CutBefore(Cut::Reset), 0),
        (Fault::CutBefore(Cut::Close), 0),
        (Fault::CutAfter(Cut::Reset), 1),
        (Fault::CutAfter(Cut::Close), 1),
    ] {
        let bench = Bench::new("wire_cut").await;
        let client = bench.connect().await;
        let planned = bench.wire.plan(Calls::running("note"), fault);
        let error = client.execute(INSERT, &[]).await.unwrap_err();
        assert!(error.as_db_error().is_none(), "{error:?}");
        assert_eq!(planned.reached(LIMIT).await.fault, Some(fault));
        assert_eq!(bench.notes().await, notes, "{fault:?}");
        bench.until_server_is_rid_of_us().await;
        bench.connect().await.execute(INSERT, &[]).await.unwrap();
        assert_eq!(planned.times(), 1, "the second call is let through");
    }
}

#[tokio::test]
async fn an_error_is_answered_in_the_servers_place() {
    let bench = Bench::new("wire_refuse").await;
    let mut client = bench.connect().await;
    bench.wire.plan(Calls::running("note").nth(2), Fault::Refuse("53100"));
    client.execute(INSERT, &[]).await.unwrap();
    let error = client.execute(INSERT, &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::DISK_FULL));
    client.execute(INSERT, &[]).await.unwrap();
    assert_eq!(bench.notes().await, 2);

    // A commit that fails has ended its transaction, and an error has spoiled it.
    bench.wire.plan(Calls::running("commit(note)"), Fault::Refuse("40001"));
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute(INSERT).await.unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
    bench.wire.plan(Calls::running("note"), Fault::Refuse("57014"));
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute(INSERT).await.unwrap_err();
    let error = transaction.batch_execute(INSERT).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    drop(transaction);
    client.execute(INSERT, &[]).await.unwrap();
    assert_eq!(bench.notes().await, 3);

    bench.wire.plan(Calls::running("note"), Fault::Refuse("57P01"));
    let error = client.execute(INSERT, &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::ADMIN_SHUTDOWN));
    bench.until_server_is_rid_of_us().await;
}

#[tokio::test]
async fn silence_leaves_the_servers_side_open_until_it_is_cut() {
    for (fault, notes) in [(Fault::Silence, 0), (Fault::SilenceAfter, 1)] {
        let bench = Bench::new("wire_silence").await;
        let (client, socket) = bench.dial_for_task().await.unwrap();
        let planned = bench.wire.plan(Calls::running("note"), fault);
        assert!(tokio::time::timeout(NO_ANSWER, client.execute(INSERT, &[])).await.is_err());
        planned.reached(LIMIT).await;
        assert_eq!(bench.notes().await, notes);
        socket.abort();
        // Nobody told the server that the client has gone.
        assert_eq!(bench.wire.connections(), 1);
        bench.wire.cut_all(Cut::Reset);
        bench.until_server_is_rid_of_us().await;
    }
}

#[tokio::test]
async fn a_late_request_arrives_although_its_client_has_gone() {
    let bench = Bench::new("wire_late").await;
    let (client, socket) = bench.dial_for_task().await.unwrap();
    bench.wire.plan(Calls::running("note"), Fault::Late(NO_ANSWER));
    assert!(tokio::time::timeout(NO_ANSWER / 10, client.execute(INSERT, &[])).await.is_err());
    socket.abort();
    eventually(LIMIT, "the row is there", async || if bench.notes().await == 1 { Ok(()) } else { Err(()) })
        .await;
    bench.until_server_is_rid_of_us().await;

    let client = bench.connect().await;
    bench.wire.plan(Calls::running("note"), Fault::LateAnswer(NO_ANSWER));
    let begun = std::time::Instant::now();
    client.execute(INSERT, &[]).await.unwrap();
    assert!(begun.elapsed() >= NO_ANSWER);
}

#[tokio::test]
async fn a_call_can_be_stopped_and_let_go() {
    let bench = Bench::new("wire_stop").await;
    let (client, socket) = bench.dial_for_task().await.unwrap();
    for (fault, at_the_stop, in_the_end) in [(Fault::StopBefore, 0, 1), (Fault::StopAfter, 2, 2)] {
        let stop = bench.wire.plan(Calls::running("note"), fault);
        let call = client.execute(INSERT, &[]);
        tokio::pin!(call);
        tokio::select! {
            done = &mut call => panic!("it was not stopped: {done:?}"),
            _ = stop.reached(LIMIT) => {}
        }
        assert_eq!(bench.notes().await, at_the_stop);
        stop.go_on();
        call.await.unwrap();
        assert_eq!(bench.notes().await, in_the_end);
    }
    // A client that goes away while it is stopped has asked for nothing.
    let stop = bench.wire.plan(Calls::running("note"), Fault::StopBefore);
    assert!(tokio::time::timeout(NO_ANSWER, client.execute(INSERT, &[])).await.is_err());
    stop.reached(LIMIT).await;
    socket.abort();
    bench.until_server_is_rid_of_us().await;
    assert_eq!(bench.notes().await, 2);
}

#[tokio::test]
async fn a_connection_can_be_found_by_what_it_ran_and_be_cut_or_silenced() {
    let bench = Bench::new("wire_order").await;
    let (mine, other) = (bench.connect().await, bench.connect().await);
    mine.batch_execute("LISTEN something").await.unwrap();
    other.execute(INSERT, &[]).await.unwrap();
    let listening = bench.wire.connection_of(LIMIT, "listen").await;
    bench.wire.silence(listening);
    assert!(tokio::time::timeout(NO_ANSWER, mine.execute(INSERT, &[])).await.is_err());
    other.execute(INSERT, &[]).await.unwrap();
    bench.wire.cut(listening, Cut::Reset);
    eventually(LIMIT, "the client notices", async || if mine.is_closed() { Ok(()) } else { Err(()) }).await;
    other.execute(INSERT, &[]).await.unwrap();
    assert_eq!(bench.notes().await, 3);
}

#[tokio::test]
async fn the_door_can_be_shut_and_a_connection_be_refused() {
    let bench = Bench::new("wire_door").await;
    bench.wire.door(Door::Reset);
    bench.dial().await.expect_err("reset");
    bench.wire.door(Door::Silent);
    assert!(tokio::time::timeout(NO_ANSWER, bench.dial()).await.is_err());
    bench.wire.door(Door::Open);
    bench.wire.plan(Calls::of(Kind::Connect), Fault::Refuse("53300"));
    let error = bench.dial().await.expect_err("refused");
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    bench.wire.plan(Calls::of(Kind::Connect), Fault::CutAfter(Cut::Reset));
    bench.dial().await.expect_err("cut before it was ready");
    bench.connect().await.execute(INSERT, &[]).await.unwrap();
    assert_eq!(bench.notes().await, 1);
}
