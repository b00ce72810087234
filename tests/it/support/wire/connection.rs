//! One connection through the proxy, from its first packet to its end.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::dial;
use super::protocol::{First, Frame, Inbox, Meaning, Statements};
use super::protocol::{error_response, ready_for_query, simple_query};
use super::rules::{Cut, Door, Fault, Hit, Kind, Order, Shared};

/// A socket to the server, of either family.
pub(super) trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// Takes connections until the end; returns only what keeps it from that.
pub(super) async fn accept(listener: &TcpListener, shared: &Arc<Shared>) -> io::Error {
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => return error,
        };
        let _ = client.set_nodelay(true);
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let (number, door, orders) = {
                let mut state = shared.lock();
                let (number, orders) = state.enter();
                (number, state.door, orders)
            };
            pass(client, number, door, orders, &shared).await;
            shared.lock().live.remove(&number);
        });
    }
}

async fn pass(
    client: TcpStream,
    number: u32,
    door: Door,
    mut orders: watch::Receiver<Order>,
    shared: &Arc<Shared>,
) {
    let mut connection = Connection {
        number,
        client,
        from_client: Inbox::default(),
        server: None,
        from_server: Inbox::default(),
        statements: Statements::default(),
        transaction: b'I',
        shared: Arc::clone(shared),
    };
    let mut end = match door {
        Door::Open => tokio::select! {
            // An error of either socket is an end as well.
            ended = connection.serve() => ended.unwrap_or(End::Closed),
            order = ordered(&mut orders) => order,
        },
        Door::Reset => End::Cut(Cut::Reset),
        Door::Silent => End::Silent,
    };
    while matches!(end, End::Silent) {
        // Both sockets stay open, and nobody reads them.
        orders.mark_unchanged();
        if orders.changed().await.is_err() {
            break;
        }
        let order = *orders.borrow();
        end = end_of(order).unwrap_or(End::Silent);
    }
    if matches!(end, End::Cut(Cut::Reset)) {
        let _ = connection.client.set_zero_linger();
    }
}

/// Waits for an order that ends the passing.
async fn ordered(orders: &mut watch::Receiver<Order>) -> End {
    loop {
        let order = *orders.borrow_and_update();
        if let Some(end) = end_of(order) {
            return end;
        }
        if orders.changed().await.is_err() {
            return End::Closed;
        }
    }
}

fn end_of(order: Order) -> Option<End> {
    match order {
        Order::Pass => None,
        Order::Silence => Some(End::Silent),
        Order::Cut(cut) => Some(End::Cut(cut)),
    }
}

/// Why nothing passes any more.
#[derive(Debug)]
enum End {
    /// One side has gone; the other is told.
    Closed,
    Cut(Cut),
    Silent,
}

/// What is left to do for a call after a fault had its way before it.
enum Before {
    GoOn,
    /// It has its answer already.
    Answered,
    End(End),
}

/// An answer and whether all of it came.
struct Answer {
    bytes: Vec<u8>,
    whole: bool,
}

struct Connection {
    number: u32,
    client: TcpStream,
    from_client: Inbox,
    server: Option<Box<dyn Pipe>>,
    from_server: Inbox,
    statements: Statements,
    /// What the server said last: in a transaction or not.
    transaction: u8,
    shared: Arc<Shared>,
}

impl Connection {
    async fn serve(&mut self) -> io::Result<End> {
        let startup = loop {
            match self.from_client.first() {
                Some(First::Encryption) => self.client.write_all(b"N").await?,
                Some(First::Cancel(bytes)) => {
                    self.connect().await?;
                    self.tell_server(&bytes).await?;
                    return Ok(End::Closed);
                }
                Some(First::Startup(bytes)) => break bytes,
                None => {
                    if !self.from_client.fill(&mut self.client).await? {
                        return Ok(End::Closed);
                    }
                }
            }
        };
        if let Some(end) = self.call(Kind::Connect, "connect".to_owned(), &startup).await? {
            return Ok(end);
        }
        loop {
            let Some(request) = self.request().await? else { return Ok(End::Closed) };
            let bytes = request.iter().flat_map(|frame| &frame.bytes).copied().collect::<Vec<u8>>();
            let end = match self.statements.meaning(&request) {
                Meaning::Run(name) => self.call(Kind::Run, name, &bytes).await?,
                Meaning::Prepare(name) => self.call(Kind::Prepare, name, &bytes).await?,
                Meaning::Quiet => {
                    self.tell_server(&bytes).await?;
                    let answer = self.answer().await?;
                    self.pass_on(answer).await?
                }
                Meaning::Terminate => {
                    self.tell_server(&bytes).await?;
                    Some(End::Closed)
                }
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    async fn connect(&mut self) -> io::Result<()> {
        let upstream = self.shared.lock().upstream.clone();
        self.server = Some(dial(&upstream).await?);
        Ok(())
    }

    async fn tell_server(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.server {
            Some(server) => server.write_all(bytes).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The client's next request, as a whole. Meanwhile, what the server says unasked is passed on. `None`: either side
    /// has closed.
    async fn request(&mut self) -> io::Result<Option<Vec<Frame>>> {
        let mut request = Vec::new();
        loop {
            while let Some(frame) = self.from_client.frame() {
                let ends = frame.ends_request();
                request.push(frame);
                if ends {
                    return Ok(Some(request));
                }
            }
            let Some(server) = &mut self.server else { return Ok(None) };
            let open = tokio::select! {
                open = self.from_client.fill(&mut self.client) => open?,
                open = self.from_server.fill(server) => open?,
            };
            while let Some(frame) = self.from_server.frame() {
                self.client.write_all(&frame.bytes).await?;
            }
            if !open {
                return Ok(None);
            }
        }
    }

    /// One call with what is planned for it. `Some`: the connection has come to an end.
    async fn call(&mut self, kind: Kind, name: String, bytes: &[u8]) -> io::Result<Option<End>> {
        let hit = self.shared.lock().meet(self.number, kind, name);
        if let Some(hit) = &hit {
            match self.before(hit, kind).await? {
                Before::GoOn => {}
                Before::Answered => return Ok(None),
                Before::End(end) => {
                    hit.happened();
                    return Ok(Some(end));
                }
            }
        }
        let answer = if kind == Kind::Connect {
            self.connect().await?;
            self.tell_server(bytes).await?;
            self.log_in().await?
        } else {
            self.tell_server(bytes).await?;
            self.answer().await?
        };
        if let Some(hit) = &hit
            && let Some(end) = self.after(hit).await?
        {
            hit.happened();
            return Ok(Some(end));
        }
        self.pass_on(answer).await
    }

    async fn before(&mut self, hit: &Hit, kind: Kind) -> io::Result<Before> {
        match hit.fault {
            Fault::CutBefore(cut) => return Ok(Before::End(End::Cut(cut))),
            Fault::Silence => return Ok(Before::End(End::Silent)),
            Fault::Refuse(code) => return self.refuse(hit, code, kind).await,
            Fault::Late(pause) => {
                hit.happened();
                tokio::time::sleep(pause).await;
            }
            Fault::StopBefore => {
                hit.happened();
                if !self.stopped(hit).await? {
                    return Ok(Before::End(End::Closed));
                }
            }
            Fault::CutAfter(_) | Fault::LateAnswer(_) | Fault::SilenceAfter | Fault::StopAfter => {}
        }
        Ok(Before::GoOn)
    }

    async fn after(&mut self, hit: &Hit) -> io::Result<Option<End>> {
        match hit.fault {
            Fault::CutAfter(cut) => return Ok(Some(End::Cut(cut))),
            Fault::SilenceAfter => return Ok(Some(End::Silent)),
            Fault::LateAnswer(pause) => {
                hit.happened();
                tokio::time::sleep(pause).await;
            }
            Fault::StopAfter => {
                hit.happened();
                if !self.stopped(hit).await? {
                    return Ok(Some(End::Closed));
                }
            }
            Fault::CutBefore(_) | Fault::Silence | Fault::Refuse(_) | Fault::Late(_) | Fault::StopBefore => {}
        }
        Ok(None)
    }

    /// Waits until the test lets the call go on; `false`: the client has gone.
    async fn stopped(&mut self, hit: &Hit) -> io::Result<bool> {
        loop {
            tokio::select! {
                () = hit.go_on.notified() => return Ok(true),
                open = self.from_client.fill(&mut self.client) => if !open? { return Ok(false) },
            }
        }
    }

    async fn refuse(&mut self, hit: &Hit, code: &'static str, kind: Kind) -> io::Result<Before> {
        let fatal = code.starts_with("57P") || kind == Kind::Connect;
        let severity = if fatal { "FATAL" } else { "ERROR" };
        self.client.write_all(&error_response(severity, code, "a fault of the test")).await?;
        if fatal {
            return Ok(Before::End(End::Closed));
        }
        // As in life: an error spoils a transaction, and a COMMIT that fails ends it.
        if self.transaction != b'I' {
            let spoil = if hit.is_commit() { "ROLLBACK" } else { "a fault of the test" };
            self.tell_server(&simple_query(spoil)).await?;
            self.answer().await?;
        }
        self.client.write_all(&ready_for_query(self.transaction)).await?;
        hit.happened();
        Ok(Before::Answered)
    }

    /// Everything up to and with the next ReadyForQuery.
    async fn answer(&mut self) -> io::Result<Answer> {
        let mut bytes = Vec::new();
        loop {
            while let Some(frame) = self.from_server.frame() {
                bytes.extend_from_slice(&frame.bytes);
                if frame.ends_answer() {
                    self.transaction = frame.transaction();
                    return Ok(Answer { bytes, whole: true });
                }
            }
            let Some(server) = &mut self.server else { return Err(io::ErrorKind::NotConnected.into()) };
            if !matches!(self.from_server.fill(server).await, Ok(true)) {
                return Ok(Answer { bytes, whole: false });
            }
        }
    }

    /// The talk about passwords passes both ways; the word that ends it is the answer.
    async fn log_in(&mut self) -> io::Result<Answer> {
        loop {
            while let Some(frame) = self.from_server.frame() {
                if frame.ends_answer() {
                    return Ok(Answer { bytes: frame.bytes, whole: true });
                }
                self.client.write_all(&frame.bytes).await?;
            }
            let Some(server) = &mut self.server else { return Err(io::ErrorKind::NotConnected.into()) };
            while let Some(frame) = self.from_client.frame() {
                server.write_all(&frame.bytes).await?;
            }
            let open = tokio::select! {
                open = self.from_client.fill(&mut self.client) => open?,
                open = self.from_server.fill(server) => open?,
            };
            if !open {
                while let Some(frame) = self.from_server.frame() {
                    self.client.write_all(&frame.bytes).await?;
                }
                return Ok(Answer { bytes: Vec::new(), whole: false });
            }
        }
    }

    async fn pass_on(&mut self, answer: Answer) -> io::Result<Option<End>> {
        self.client.write_all(&answer.bytes).await?;
        Ok((!answer.whole).then_some(End::Closed))
    }
}
