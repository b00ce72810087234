//! Answers, and what a scripted act makes of them: decent ones go through hyper, the others byte by byte.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::sim::script::Act;

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    status: u16,
    content_type: &'static str,
    headers: Vec<(String, String)>,
    body: Bytes,
}

/// What the connection shall do.
#[derive(Debug)]
pub(super) enum Reply {
    /// Answer in good order, after so many milliseconds.
    Decent(Answer, u64),
    /// Leave HTTP: play this, then end the connection.
    Raw(Performance),
    /// Nothing, for ever.
    Silence,
}

/// Bytes to write as they are, each piece after a pause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Performance {
    pub(super) pieces: Vec<Bytes>,
    /// Before each piece.
    pub(super) pause_ms: u64,
    /// End with RST.
    pub(super) reset: bool,
}

impl Answer {
    pub(super) fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
        Answer { status, content_type, headers: Vec::new(), body: body.into() }
    }

    pub(super) fn text(status: u16, body: impl Into<Bytes>) -> Answer {
        Answer::new(status, "text/plain; charset=utf-8", body)
    }

    pub(super) fn json(status: u16, body: &serde_json::Value) -> Answer {
        Answer::new(status, "application/json; charset=utf-8", body.to_string())
    }

    /// As hyper sends it. `None`: a status or header that HTTP does not know.
    pub(super) fn response(&self) -> Option<Response<Full<Bytes>>> {
        let mut response = Response::new(Full::new(self.body.clone()));
        *response.status_mut() = StatusCode::from_u16(self.status).ok().filter(|s| s.as_u16() >= 200)?;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        for (name, value) in &self.headers {
            let name = HeaderName::try_from(name.as_str()).ok()?;
            response.headers_mut().insert(name, HeaderValue::from_str(value).ok()?);
        }
        Some(response)
    }

    /// As bytes, with a Content-Length that is off by `off`.
    fn bytes(&self, off: i64) -> (Vec<u8>, usize) {
        let length = i64::try_from(self.body.len()).unwrap_or(i64::MAX).saturating_add(off).max(0);
        let reason = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let mut head = format!(
            "HTTP/1.1 {} {}\r\ncontent-type: {}\r\ncontent-length: {length}\r\n",
            self.status,
            reason.unwrap_or_default(),
            self.content_type
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let head_len = head.len();
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        (bytes, head_len)
    }

    pub(super) fn raw(&self, off: i64) -> Performance {
        Performance { pieces: vec![self.bytes(off).0.into()], ..Performance::default() }
    }

    fn truncated(&self, keep: Option<usize>) -> Performance {
        let (mut bytes, head) = self.bytes(0);
        bytes.truncate(keep.unwrap_or(head + self.body.len() / 2));
        Performance { pieces: vec![bytes.into()], ..Performance::default() }
    }

    fn dripping(&self, ms: u64, bytes: usize) -> Performance {
        let whole = Bytes::from(self.bytes(0).0);
        let size = bytes.max(1);
        let pieces = (0..whole.len()).step_by(size).map(|at| whole.slice(at..whole.len().min(at + size)));
        Performance { pieces: pieces.collect(), pause_ms: ms, reset: false }
    }
}

/// What becomes of `answer`, the true one, under `act`. For acts that do not handle the request it is not looked at.
pub(super) fn play(act: Act, answer: Answer, latency_ms: u64) -> Reply {
    let decent = |answer: Answer| Reply::Decent(answer, latency_ms);
    match act {
        Act::Answer { status, headers, body, accept: _ } => {
            let mut scripted = Answer::text(status, body);
            scripted.headers = headers.into_iter().collect();
            decent(scripted)
        }
        Act::Drop { reset, accept: _ } => Reply::Raw(Performance { reset, ..Performance::default() }),
        Act::Hang { accept: _ } => Reply::Silence,
        Act::Late { ms } => Reply::Decent(answer, latency_ms.saturating_add(ms)),
        Act::Drip { ms, bytes } => Reply::Raw(answer.dripping(ms, bytes)),
        Act::Truncate { keep } => Reply::Raw(answer.truncated(keep)),
        Act::WrongLength { by } => Reply::Raw(answer.raw(by)),
        Act::CloseAfter {} => Reply::Raw(answer.raw(0)),
        Act::Page { status, accept: _ } => decent(Answer::new(status, "text/html; charset=utf-8", PAGE)),
        Act::Huge { bytes, accept: _ } => decent(Answer::text(200, vec![b'0'; bytes.min(HUGEST)])),
        Act::Empty { status, accept: _ } => decent(Answer::text(status, "")),
        Act::Binary { accept: _ } => {
            let noise: &[u8] = &[0xff, 0xfe, 0x00, b'0', 0xc3, 0x28, 0x80, b'\n'];
            decent(Answer::new(200, "application/octet-stream", noise))
        }
        Act::Refuse { .. } | Act::ExpireTokens {} => decent(answer),
    }
}

/// More than any sane client reads, less than hurts this host.
const HUGEST: usize = 256 << 20;

const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Notice</title></head>\n\
<body><h1>Please sign in</h1><p>Your request was taken by a device on the way.</p></body></html>\n";

/// The service's way out of HTTP: carried by hyper's error to the connection's task.
#[derive(Debug)]
pub(super) struct LeaveHttp(pub(super) Performance);

impl std::fmt::Display for LeaveHttp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the script ends this connection")
    }
}

impl std::error::Error for LeaveHttp {}
