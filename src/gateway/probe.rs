//! Finds out whether a gateway can be used, without sending anything to anybody.
//!
//! InteractSMS v2 is asked for its sender list, behind a log-in: that proves name, TLS, proxy, credentials and API,
//! and costs nothing. The other gateways have no call that is known to be harmless (v1 takes a bare GET of its send
//! address for a submission), so only the root of the host is looked at, with HEAD and without credentials: any
//! answer but 502 to 504 proves name, TCP, TLS and proxy, and no application behind the root sends messages.

use http::header::AUTHORIZATION;
use http::{Method, StatusCode};
use serde_json::{Map, Value};
use url::Url;

use crate::gateway::answer::{Answer, by_status};
use crate::gateway::auth::Auth;
use crate::gateway::egress::{ANSWER_BYTES, Egress, place_of};
use crate::gateway::interactsms_v2::bearer;
use crate::gateway::{BuildError, Deferral, parse_url};
use crate::verdict::{DeferCause, Verdict};

/// An account may have many senders.
const SENDER_LIST_BYTES: usize = 1024 * 1024;
/// Longest name that is taken for a sender; handsets show eleven characters.
const SENDER_CHARS: usize = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The senders that the account may use; `None` where the gateway has no such list.
    pub senders: Option<Vec<SenderId>>,
    /// The gateway's clock, where it tells: seconds since 1970.
    pub date: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderId {
    pub name: String,
    /// 0: ComReg sender ID. 1: international, does not reach Irish numbers. 2: numeric.
    pub kind: Option<i64>,
}

impl SenderId {
    fn read(listed: &Map<String, Value>) -> Option<SenderId> {
        let name = listed.get("name")?.as_str()?.to_owned();
        Some(SenderId { name, kind: listed.get("type").and_then(Value::as_i64) })
    }
}

#[derive(Debug)]
pub(super) enum Target {
    SenderList(Url),
    Root(Url),
}

impl Target {
    pub(super) fn sender_list(api_url: &str) -> Result<Target, BuildError> {
        let url = format!("{}/api/v2/senderlist", api_url.trim_end_matches('/'));
        Ok(Target::SenderList(parse_url("api_url", &url)?))
    }

    pub(super) fn root_of(url: &str) -> Result<Target, BuildError> {
        let mut url = parse_url("url", url)?;
        url.set_path("/");
        url.set_query(None);
        Ok(Target::Root(url))
    }

    /// Shares host and scheme with the address that messages go to.
    pub(super) fn url(&self) -> &Url {
        match self {
            Target::SenderList(url) | Target::Root(url) => url,
        }
    }

    /// What an answer says about the senders; `None` where they are not asked for.
    pub(super) fn senders(&self, answer: &Answer) -> Option<Result<ProbeReport, Deferral>> {
        match self {
            Target::SenderList(url) => Some(senders(answer, url)),
            Target::Root(_) => None,
        }
    }

    pub(super) async fn run(&self, egress: &Egress, auth: Option<&Auth>) -> Result<ProbeReport, Deferral> {
        match (self, auth) {
            (Target::SenderList(url), Some(auth)) => {
                let answer = match list(url, egress, auth).await? {
                    refused if refused.status == StatusCode::UNAUTHORIZED.as_u16() => {
                        list(url, egress, auth).await?
                    }
                    answer => answer,
                };
                senders(&answer, url)
            }
            (Target::SenderList(url) | Target::Root(url), _) => {
                let answer =
                    egress.call(reqwest::Request::new(Method::HEAD, url.clone()), ANSWER_BYTES).await?;
                match answer.status {
                    407 => Err(Deferral::misconfigured(
                        "the proxy wants a log-in (407); check user and password in proxy".to_owned(),
                    )),
                    // Said by a proxy or balancer that does not reach the gateway, or by a gateway that is down.
                    status @ 502..=504 => {
                        let place = place_of(url);
                        Err(Deferral::unreachable(format!(
                            "{place} is reached but not in service (HTTP {status})"
                        )))
                    }
                    _ => Ok(ProbeReport { senders: None, date: answer.told_time() }),
                }
            }
        }
    }
}

/// Asks once; a token that is refused is not used again.
async fn list(url: &Url, egress: &Egress, auth: &Auth) -> Result<Answer, Deferral> {
    let token = auth.token(egress).await?;
    let mut request = reqwest::Request::new(Method::GET, url.clone());
    if let Some(bearer) = bearer(&token.secret) {
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let answer = egress.call(request, SENDER_LIST_BYTES).await?;
    if answer.status == StatusCode::UNAUTHORIZED.as_u16() {
        auth.invalidate(&token);
    }
    Ok(answer)
}

fn senders(answer: &Answer, url: &Url) -> Result<ProbeReport, Deferral> {
    if answer.is_whole_success()
        && let Some(listed) = answer.json::<Vec<Map<String, Value>>>()
        && let Some(mut senders) = listed.iter().map(SenderId::read).collect::<Option<Vec<_>>>()
    {
        // They are shown on people's terminals; what no handset could show is no sender.
        senders.retain(|sender| {
            sender.name.chars().count() <= SENDER_CHARS && !sender.name.contains(char::is_control)
        });
        return Ok(ProbeReport { senders: Some(senders), date: answer.told_time() });
    }
    let place = place_of(url);
    Err(match by_status(answer) {
        Verdict::Deferred { cause, retry_after, reason } => Deferral { cause, retry_after, reason },
        Verdict::Accepted { .. } | Verdict::Rejected { .. } | Verdict::Unknown { .. } => Deferral {
            cause: DeferCause::Busy,
            retry_after: answer.wait(),
            reason: format!("{place} answered HTTP {} instead of its sender list", answer.status),
        },
    })
}
