//! A name server for trials: it says what it is told to say, remembers what it was asked, and nothing that it says may be
//! kept.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

/// Where names lead. Each question for a name's address gets the next of its answers, in turn.
#[derive(Debug, Default)]
struct Book {
    names: BTreeMap<String, Leads>,
    asked: Vec<String>,
    /// Over UDP it says no more than that the answer does not fit.
    truncating: bool,
    asked_over_tcp: usize,
}

#[derive(Debug)]
struct Leads {
    four: Vec<IpAddr>,
    six: Vec<IpAddr>,
    next: usize,
}

#[derive(Debug)]
pub(crate) struct Resolver {
    book: Arc<Mutex<Book>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Resolver {
    pub(crate) async fn start(addresses: &[SocketAddr]) -> Resolver {
        let book = Arc::new(Mutex::new(Book::default()));
        let mut tasks = Vec::new();
        for address in addresses {
            let socket = UdpSocket::bind(address).await.expect("port 53 of an address of our own");
            let listener = TcpListener::bind(address).await.expect("port 53 of an address of our own");
            tasks.push(tokio::spawn(answer_datagrams(socket, Arc::clone(&book))));
            tasks.push(tokio::spawn(answer_streams(listener, Arc::clone(&book))));
        }
        Resolver { book, tasks }
    }

    /// From now on the name leads there: to the first, then to the second, and so on.
    pub(crate) fn lead(&self, name: &str, to: &[impl Into<IpAddr> + Copy]) {
        let (four, six) = to.iter().map(|address| (*address).into()).partition(IpAddr::is_ipv4);
        self.book.lock().unwrap().names.insert(name.to_owned(), Leads { four, six, next: 0 });
    }

    /// From now on no answer fits into a datagram, and who wants one has to ask again over TCP.
    pub(crate) fn truncate(&self) {
        self.book.lock().unwrap().truncating = true;
    }

    pub(crate) fn asked_over_tcp(&self) -> usize {
        self.book.lock().unwrap().asked_over_tcp
    }

    pub(crate) fn asked(&self, name: &str) -> usize {
        self.book.lock().unwrap().asked.iter().filter(|asked| *asked == name).count()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn answer_datagrams(socket: UdpSocket, book: Arc<Mutex<Book>>) {
    let mut question = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question).await {
        if let Some(answer) = answer(&question[..length], &book, true) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn answer_streams(listener: TcpListener, book: Arc<Mutex<Book>>) {
    while let Ok((caller, _)) = listener.accept().await {
        tokio::spawn(answer_stream(caller, Arc::clone(&book)));
    }
}

/// Any number of questions, each behind its length.
async fn answer_stream(mut caller: TcpStream, book: Arc<Mutex<Book>>) {
    while let Ok(length) = caller.read_u16().await {
        let mut question = vec![0; usize::from(length)];
        if caller.read_exact(&mut question).await.is_err() {
            return;
        }
        book.lock().unwrap().asked_over_tcp += 1;
        let Some(answer) = answer(&question, &book, false) else { return };
        let mut framed = u16::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
        framed.extend(answer);
        if caller.write_all(&framed).await.is_err() {
            return;
        }
    }
}

/// One question, one answer: RFC 1035 as far as it takes.
fn answer(question: &[u8], book: &Mutex<Book>, datagram: bool) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: u16 = 1;
    const AAAA: u16 = 28;
    const TRUNCATED: u8 = 2;
    const NO_SUCH_NAME: u8 = 3;
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*question.get(at)?, *question.get(at + 1)?]);
    let end = at + 4;
    let name = labels.join(".");
    let mut book = book.lock().unwrap();
    let truncated = datagram && book.truncating;
    if kind == A && !truncated {
        book.asked.push(name.clone());
    }
    let (code, address) = match book.names.get_mut(&name) {
        _ if truncated => (0, None),
        None => (NO_SUCH_NAME, None),
        Some(leads) if kind == A => (0, in_turn(&leads.four, &mut leads.next)),
        // No trial lets one of these lead to two places.
        Some(leads) if kind == AAAA => (0, leads.six.first().copied()),
        Some(_) => (0, None),
    };
    let mut reply = question[..2].to_vec();
    let flags = 0x85 | if truncated { TRUNCATED } else { 0 };
    reply.extend([flags, 0x80 | code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    reply.extend(question.get(HEADER..end)?);
    // The name of the question, an address, of this moment only.
    match address {
        Some(IpAddr::V4(address)) => {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            reply.extend(address.octets());
        }
        Some(IpAddr::V6(address)) => {
            reply.extend([0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 0, 0, 16]);
            reply.extend(address.octets());
        }
        None => {}
    }
    Some(reply)
}

fn in_turn(addresses: &[IpAddr], next: &mut usize) -> Option<IpAddr> {
    let address = addresses.get(*next % addresses.len().max(1)).copied();
    *next += 1;
    address
}
