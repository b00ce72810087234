//! The admin pages as a scraper sees them: HTTP over the address or the file, and a page of metrics taken apart so
//! strictly that what Prometheus would stumble over fails here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::eventually;

const LIMIT: Duration = Duration::from_secs(30);

/// An answer of the pages.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends these bytes to a loopback port, and reads whatever comes until the connection ends.
pub(crate) async fn raw(port: u16, bytes: &[u8]) -> String {
    exchange(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), bytes).await
}

async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, bytes: &[u8]) -> String {
    // The other side may hang up before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("the connection ends");
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
}

fn answer(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub(crate) async fn get(port: u16, path: &str) -> Answer {
    answer(&raw(port, request(path).as_bytes()).await)
}

/// Through a Unix socket; an error says that nobody listens there.
pub(crate) async fn get_by_file(file: &Path, path: &str) -> std::io::Result<Answer> {
    let stream = UnixStream::connect(file).await?;
    Ok(answer(&exchange(stream, request(path).as_bytes()).await))
}

/// Waits until a page has this status, and returns what it says.
pub(crate) async fn until(port: u16, path: &str, status: u16) -> String {
    eventually(LIMIT, &format!("{path} answers {status}"), async || {
        let answer = get(port, path).await;
        if answer.status == status { Ok(answer.body) } else { Err(answer) }
    })
    .await
}

/// A page of metrics.
#[derive(Debug, Default, Clone)]
pub(crate) struct Scrape {
    pub(crate) text: String,
    /// By series, as it is written: `name{label="value"}`.
    samples: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

pub(crate) async fn scrape(port: u16) -> Scrape {
    let answer = get(port, "/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(
        answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{}",
        answer.head
    );
    Scrape::read(answer.body)
}

impl Scrape {
    fn read(text: String) -> Scrape {
        let mut scrape = Scrape::default();
        let mut helped = BTreeSet::new();
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help");
                assert!(helped.insert(name.to_owned()), "{name} has a second help");
                assert!(help.ends_with('.'), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert!(helped.contains(name), "{name} has no help before its type");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                scrape.kinds.insert(name.to_owned(), kind.to_owned());
                name.clone_into(&mut family);
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let name = series.split('{').next().unwrap();
                let known = match scrape.kinds.get(&family).map(String::as_str) {
                    Some("histogram") => {
                        ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{family}{end}"))
                    }
                    Some(_) => name == family,
                    None => false,
                };
                assert!(known, "{line} does not belong to {family}");
                assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
                let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                assert!(scrape.samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
            }
        }
        scrape.text = text;
        scrape
    }

    pub(crate) fn value(&self, series: &str) -> f64 {
        let value = self.samples.get(series);
        *value.unwrap_or_else(|| panic!("{series} is not there:\n{}", self.text))
    }

    pub(crate) fn count(&self, series: &str) -> i64 {
        let value = self.value(series);
        assert!(value >= 0.0 && value.fract() == 0.0, "{series} is {value}");
        format!("{value}").parse().unwrap()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.samples.keys().any(|series| series.split('{').next() == Some(name))
    }

    /// Every series of a counter or a histogram is there in the later page, and has not fallen.
    pub(crate) fn assert_goes_on_from(&self, earlier: &Scrape) {
        for (series, before) in &earlier.samples {
            let name = series.split('{').next().unwrap();
            let counts = earlier.kinds.get(name).is_some_and(|kind| kind == "counter")
                || ["_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end));
            if counts {
                let now = self.value(series);
                assert!(now >= *before, "{series} fell from {before} to {now}");
            }
        }
    }
}
