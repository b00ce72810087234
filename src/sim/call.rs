//! One request, read to its end.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::sim::script::Target;

#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why a request could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    TooLarge,
    /// The client went away, or broke the protocol.
    Broken,
}

impl Call {
    pub(super) async fn read(parts: Parts, mut body: Incoming, limit: usize) -> Result<Call, Unread> {
        let mut whole = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Unread::Broken)?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + more.len() + data.len() > limit {
                return Err(Unread::TooLarge);
            }
            // Nearly every body is one frame, which then is not copied.
            if whole.is_empty() && more.is_empty() && body.is_end_stream() {
                whole = data;
            } else {
                more.extend_from_slice(&data);
            }
        }
        let body = if more.is_empty() { whole } else { more.freeze() };
        let query = parts.uri.query().unwrap_or_default().to_owned();
        Ok(Call { method: parts.method, query, headers: parts.headers, body })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn has_content_type(&self, wanted: &str) -> bool {
        let given = self.header("content-type").unwrap_or_default();
        given.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted))
    }
}

/// Which of the gateway's functions a path is. ASP.NET paths have no letter case, Kannel's have.
pub(super) fn target(path: &str) -> Option<Target> {
    if path == "/cgi-bin/sendsms" {
        return Some(Target::Kannel);
    }
    if path == "/token" {
        return Some(Target::Token);
    }
    let paths = [
        ("/api/v2/Campaign", Target::V2),
        ("/api/v1/sendmessage.aspx", Target::V1Form),
        ("/api/v1/sendmessage", Target::V1Json),
        ("/api/v2/senderlist", Target::SenderList),
        ("/health", Target::Health),
    ];
    paths.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(path)).map(|(_, target)| target)
}

/// The methods that a function takes.
pub(super) fn takes(target: Target, method: &Method) -> bool {
    match target {
        Target::Token | Target::V2 | Target::V1Json => *method == Method::POST,
        Target::V1Form => *method == Method::POST || *method == Method::GET,
        Target::Kannel | Target::SenderList | Target::Health => *method == Method::GET,
    }
}
