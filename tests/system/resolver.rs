//! A name server for trials: it says what it is told to say, remembers what it was asked, and nothing that it says may be
//! kept.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Where names lead. Each question for a name's address gets the next of its answers, in turn.
#[derive(Debug, Default)]
struct Book {
    names: BTreeMap<String, (Vec<Ipv4Addr>, usize)>,
    asked: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Resolver {
    book: Arc<Mutex<Book>>,
    task: JoinHandle<()>,
}

impl Resolver {
    pub(crate) async fn start(address: SocketAddr) -> Resolver {
        let socket = UdpSocket::bind(address).await.expect("port 53 of an address of our own");
        let book = Arc::new(Mutex::new(Book::default()));
        let pages = Arc::clone(&book);
        let task = tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                if let Some(answer) = answer(&question[..length], &pages) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Resolver { book, task }
    }

    /// From now on the name leads there: to the first, then to the second, and so on.
    pub(crate) fn lead(&self, name: &str, to: &[Ipv4Addr]) {
        self.book.lock().unwrap().names.insert(name.to_owned(), (to.to_vec(), 0));
    }

    pub(crate) fn asked(&self, name: &str) -> usize {
        self.book.lock().unwrap().asked.iter().filter(|asked| *asked == name).count()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One question, one answer: RFC 1035 as far as it takes.
fn answer(question: &[u8], book: &Mutex<Book>) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: u16 = 1;
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
    if kind == A {
        book.asked.push(name.clone());
    }
    let (code, address) = match book.names.get_mut(&name) {
        None => (NO_SUCH_NAME, None),
        Some(_) if kind != A => (0, None),
        Some((addresses, next)) => {
            *next += 1;
            (0, Some(addresses[(*next - 1) % addresses.len()]))
        }
    };
    let mut reply = question[..2].to_vec();
    reply.extend([0x85, 0x80 | code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    reply.extend(question.get(HEADER..end)?);
    if let Some(address) = address {
        // The name of the question, an address, of this moment only.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}
