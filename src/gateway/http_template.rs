//! Any other gateway, described by configuration: where the message's parts go, and how its answers read.
//!
//! Pure. The host, port and path are fixed when the configuration is read: placeholders fill the query, form fields
//! and the string leaves of a JSON body, always through an encoder, so a text can neither add a field nor change
//! where the request goes.

use bytes::Bytes;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::Value;
use url::Url;

use crate::config::{self, CodeClass, Extract, HttpBody, HttpMethod, HttpRule, Secret};
use crate::gateway::answer::{Answer, by_class, class_of_status};
use crate::gateway::quote::Private;
use crate::gateway::template::{Template, Values};
use crate::gateway::{BuildError, Dialect, Prepared, parse_url};
use crate::message::{Outgoing, Refusal};
use crate::verdict::Verdict;

/// A longer id is not one.
const MESSAGE_ID_CHARS: usize = 128;

#[derive(Debug)]
pub(super) struct HttpTemplate {
    method: Method,
    url: Url,
    query: Option<Template>,
    headers: HeaderMap,
    body: Body,
    rules: Vec<HttpRule>,
    message_id: Option<Extract>,
    error: Option<Extract>,
    plus: bool,
}

#[derive(Debug)]
enum Body {
    None,
    /// In the query of a GET, in the body of a POST.
    Fields(Vec<(String, Template)>),
    Json(Node),
}

/// A JSON value whose string leaves are filled in.
#[derive(Debug)]
enum Node {
    Fixed(Value),
    Text(Template),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl HttpTemplate {
    pub(super) fn build(cfg: &config::HttpTemplate) -> Result<HttpTemplate, BuildError> {
        let (base, query) = match cfg.url.split_once('?') {
            Some((base, query)) => (base, Some(parse("url", query)?)),
            None => (cfg.url.as_str(), None),
        };
        if base.contains(['{', '}']) {
            return Err(setting("url", "placeholders may stand in the query only, after the question mark"));
        }
        let body = match &cfg.body {
            HttpBody::None => Body::None,
            HttpBody::Form(fields) => Body::Fields(
                fields
                    .iter()
                    .map(|(name, value)| Ok((name.clone(), parse("form", value.expose())?)))
                    .collect::<Result<_, BuildError>>()?,
            ),
            HttpBody::Json(_) if cfg.method == HttpMethod::Get => {
                return Err(setting("json", "a GET request has no body; use method = \"post\""));
            }
            HttpBody::Json(value) => Body::Json(Node::build(value)?),
        };
        for rule in &cfg.rules {
            let (from, to) = rule.status;
            if rule.class == CodeClass::Accepted && (from < 200 || to > 299) {
                return Err(setting("rules", "only statuses from 200 to 299 can mean accepted"));
            }
        }
        Ok(HttpTemplate {
            method: match cfg.method {
                HttpMethod::Get => Method::GET,
                HttpMethod::Post => Method::POST,
            },
            url: parse_url("url", base)?,
            query,
            headers: headers(cfg)?,
            body,
            rules: cfg.rules.clone(),
            message_id: cfg.message_id.clone(),
            error: cfg.error.clone(),
            plus: cfg.plus,
        })
    }
}

fn setting(setting: &'static str, reason: impl Into<String>) -> BuildError {
    BuildError::Setting { setting, reason: reason.into() }
}

fn parse(name: &'static str, text: &str) -> Result<Template, BuildError> {
    Template::parse(text).map_err(|reason| setting(name, reason))
}

fn headers(cfg: &config::HttpTemplate) -> Result<HeaderMap, BuildError> {
    let mut headers = HeaderMap::new();
    match (&cfg.body, cfg.method) {
        (HttpBody::Form(_), HttpMethod::Post) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        (HttpBody::Json(_), HttpMethod::Post) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        _ => {}
    }
    if let Some((user, password)) = &cfg.basic_auth {
        let pair = base64(format!("{user}:{}", password.expose()).as_bytes());
        headers.insert(AUTHORIZATION, secret_header(&format!("Basic {pair}"))?);
    }
    for (name, value) in &cfg.headers {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| setting("headers", format!("{name:?} is not a header name")))?;
        headers.insert(header, secret_header(value.expose())?);
    }
    Ok(headers)
}

/// Any header may be a key, so all are marked as sensitive and never printed.
fn secret_header(text: &str) -> Result<HeaderValue, BuildError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| setting("headers", "a header's value may only hold visible ASCII characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().chain([&0; 2]).take(3).fold(0_u32, |group, b| group << 8 | u32::from(*b));
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit)) & 63;
            out.push(if digit <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    out
}

impl Node {
    fn build(value: &Value) -> Result<Node, BuildError> {
        Ok(match value {
            Value::String(text) => Node::Text(parse("json", text)?),
            Value::Array(items) => Node::List(items.iter().map(Node::build).collect::<Result<_, _>>()?),
            Value::Object(fields) => Node::Object(
                fields.iter().map(|(name, value)| Ok((name.clone(), Node::build(value)?))).collect::<Result<
                    _,
                    BuildError,
                >>(
                )?,
            ),
            Value::Null | Value::Bool(_) | Value::Number(_) => Node::Fixed(value.clone()),
        })
    }
}

struct Filled<'a>(&'a Node, Values<'a>);

impl Serialize for Filled<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Filled(node, values) = *self;
        match node {
            Node::Fixed(value) => value.serialize(serializer),
            Node::Text(template) => serializer.serialize_str(&template.filled(values)),
            Node::List(items) => serializer.collect_seq(items.iter().map(|item| Filled(item, values))),
            Node::Object(fields) => {
                serializer.collect_map(fields.iter().map(|(name, item)| (name, Filled(item, values))))
            }
        }
    }
}

fn push_field(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push('&');
    }
    out.extend(form_urlencoded::byte_serialize(name.as_bytes()));
    out.push('=');
    out.extend(form_urlencoded::byte_serialize(value.as_bytes()));
}

impl Dialect for HttpTemplate {
    fn request(&self, messages: &[Outgoing], _token: Option<&Secret>) -> Result<Prepared, Refusal> {
        let [message] = messages else {
            return Err(Refusal::new("empty_request", "this gateway takes one message a request"));
        };
        let values = Values { message, plus: self.plus };
        let mut query = String::new();
        if let Some(template) = &self.query {
            template.fill(values, |part, literal| {
                if literal {
                    query.push_str(part);
                } else {
                    query.extend(form_urlencoded::byte_serialize(part.as_bytes()));
                }
            });
        }
        let body = match &self.body {
            Body::None => Vec::new(),
            Body::Fields(fields) => {
                let mut form = String::new();
                let target = if self.method == Method::GET { &mut query } else { &mut form };
                for (name, value) in fields {
                    push_field(target, name, &value.filled(values));
                }
                form.into_bytes()
            }
            Body::Json(node) => serde_json::to_vec(&Filled(node, values))
                .map_err(|_| Refusal::new("unsendable_text", "the message cannot be written as JSON"))?,
        };
        let mut url = self.url.clone();
        if !query.is_empty() {
            url.set_query(Some(&query));
        }
        Ok(Prepared {
            method: self.method.clone(),
            url,
            headers: self.headers.clone(),
            body: Bytes::from(body),
        })
    }

    fn verdict(&self, answer: &Answer, private: Private<'_>) -> Verdict {
        let json = answer.json::<Value>();
        let class = self
            .rules
            .iter()
            .find(|rule| matches(rule, answer, json.as_ref()))
            .map_or_else(|| class_of_status(answer.status), |rule| rule.class);
        if class == CodeClass::Accepted {
            return self.accepted(answer, json.as_ref());
        }
        let said = self.error.as_ref().and_then(|place| extract(place, answer, json.as_ref()));
        by_class(class, answer, said.map(|text| private.quote(&text)).as_deref())
    }
}

impl HttpTemplate {
    /// A rule said accepted. Where an id is expected, an answer without one is not the gateway's usual answer (a
    /// proxy's page, say) and proves nothing.
    fn accepted(&self, answer: &Answer, json: Option<&Value>) -> Verdict {
        if !answer.is_whole_success() {
            return by_class(CodeClass::Unknown, answer, None);
        }
        let Some(place) = &self.message_id else {
            return Verdict::Accepted { gateway_message_id: None, note: None };
        };
        match extract(place, answer, json).filter(|id| is_id(id)) {
            Some(id) => Verdict::Accepted { gateway_message_id: Some(id), note: None },
            None => Verdict::Unknown {
                reason: format!(
                    "the answer (HTTP {}) reads as accepted but holds no message id where message_id says",
                    answer.status
                ),
            },
        }
    }
}

/// A sentence, a page or a whole object in its place shows that somebody else answered.
fn is_id(text: &str) -> bool {
    let foreign = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"');
    !text.is_empty() && text.chars().count() <= MESSAGE_ID_CHARS && !text.contains(foreign)
}

fn matches(rule: &HttpRule, answer: &Answer, json: Option<&Value>) -> bool {
    let (from, to) = rule.status;
    (from..=to).contains(&answer.status)
        && rule
            .body_starts_with
            .as_ref()
            .is_none_or(|start| answer.body.trim_ascii_start().starts_with(start.as_bytes()))
        && rule.json_equals.as_ref().is_none_or(|(pointer, wanted)| {
            json.and_then(|json| json.pointer(pointer)).and_then(leaf).is_some_and(|found| found == *wanted)
        })
}

/// A JSON leaf as the configuration would write it.
fn leaf(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn extract(place: &Extract, answer: &Answer, json: Option<&Value>) -> Option<String> {
    match place {
        Extract::JsonPointer(pointer) => json?.pointer(pointer).and_then(leaf),
        Extract::After(marker) => {
            let text = std::str::from_utf8(&answer.body).ok()?;
            let after = text.split_once(marker.as_str())?.1;
            let end = after.find(|c: char| c.is_whitespace() || c == '"' || c == '\'').unwrap_or(after.len());
            Some(after[..end].to_owned())
        }
        Extract::Body => Some(std::str::from_utf8(&answer.body).ok()?.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::{Strategy, any, prop_assert, prop_oneof, proptest};
    use serde_json::json;

    use super::{HttpTemplate, base64};
    use crate::config::{self, CodeClass, Extract, HttpBody, HttpMethod, HttpRule, Secret};
    use crate::gateway::answer::Answer;
    use crate::gateway::quote::Private;
    use crate::gateway::{Dialect, outgoing_for_tests};
    use crate::message::Encoding;
    use crate::verdict::{DeferCause, Verdict};

    fn rule(status: (u16, u16), start: Option<&str>, class: CodeClass) -> HttpRule {
        HttpRule { status, body_starts_with: start.map(str::to_owned), json_equals: None, class }
    }

    fn settings(url: &str, method: HttpMethod, body: HttpBody) -> config::HttpTemplate {
        config::HttpTemplate {
            method,
            url: url.to_owned(),
            headers: Vec::new(),
            body,
            basic_auth: None,
            rules: Vec::new(),
            message_id: None,
            error: None,
            plus: false,
            password: None,
        }
    }

    fn fields(pairs: &[(&str, &str)]) -> HttpBody {
        HttpBody::Form(pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect())
    }

    /// A Kannel smsbox as its manual describes it.
    fn kannel() -> config::HttpTemplate {
        let body = fields(&[
            ("username", "us er"),
            ("password", "p{{w"),
            ("from", "{sender}"),
            ("to", "{recipient}"),
            ("text", "{text}"),
            ("coding", "{encoding:0|2}"),
            ("charset", "UTF-8"),
        ]);
        let mut cfg = settings("http://127.0.0.1:13013/cgi-bin/sendsms", HttpMethod::Get, body);
        cfg.rules = vec![
            rule((202, 202), Some("0:"), CodeClass::Accepted),
            rule((202, 202), Some("3:"), CodeClass::Accepted),
            rule((503, 503), None, CodeClass::Busy),
            rule((403, 403), None, CodeClass::Unauthorized),
        ];
        cfg.error = Some(Extract::Body);
        cfg
    }

    #[test]
    fn kannel_gets_a_query_and_its_answers_are_understood() {
        let dialect = HttpTemplate::build(&kannel()).unwrap();
        let mut message = outgoing_for_tests("a&b ü+");
        message.encoding = Encoding::Ucs2;
        let prepared = dialect.request(&[message], None).unwrap();
        assert_eq!((prepared.method, prepared.body.len()), (Method::GET, 0));
        assert_eq!(
            prepared.url.query().unwrap(),
            "username=us+er&password=p%7Bw&from=Clinic&to=353871234567&text=a%26b+%C3%BC%2B&coding=2&charset=UTF-8"
        );
        let verdict =
            |status, body: &'static str| dialect.verdict(&Answer::new(status, body), Private::default());
        assert!(matches!(verdict(202, "0: Accepted for delivery"), Verdict::Accepted { .. }));
        assert!(matches!(verdict(202, "3: Queued for later delivery"), Verdict::Accepted { .. }));
        assert!(matches!(verdict(202, "something else"), Verdict::Unknown { .. }));
        assert!(matches!(verdict(200, "0: Accepted for delivery"), Verdict::Unknown { .. }));
        let cause = |status, body| match verdict(status, body) {
            Verdict::Deferred { cause, reason, .. } => Some((cause, reason)),
            Verdict::Accepted { .. } | Verdict::Rejected { .. } | Verdict::Unknown { .. } => None,
        };
        let (busy, reason) = cause(503, "Temporal failure, try again later.").unwrap();
        assert_eq!((busy, reason.contains("Temporal failure")), (DeferCause::Busy, true));
        assert_eq!(cause(403, "Authorization failed").unwrap().0, DeferCause::Unauthorized);
        assert_eq!(cause(404, "").unwrap().0, DeferCause::Misconfigured);
        assert!(matches!(verdict(400, "bad"), Verdict::Rejected { .. }));
    }

    #[test]
    fn a_json_body_is_filled_leaf_by_leaf() {
        let body = HttpBody::Json(json!({
            "messages": [{"to": "{recipient}", "text": "{text}", "n": 1, "on": true, "x": null, "ref": "o-{ref}"}]
        }));
        let mut cfg = settings("https://gw.example.test/send", HttpMethod::Post, body);
        cfg.plus = true;
        cfg.basic_auth = Some(("user".to_owned(), Secret::new("pass")));
        cfg.headers = vec![("X-Key".to_owned(), Secret::new("k3y"))];
        let dialect = HttpTemplate::build(&cfg).unwrap();
        let prepared = dialect.request(&[outgoing_for_tests("\",\"to\":\"1\"}")], None).unwrap();
        assert_eq!(prepared.headers["authorization"], "Basic dXNlcjpwYXNz");
        assert_eq!(prepared.headers["content-type"], "application/json");
        let sent: serde_json::Value = serde_json::from_slice(&prepared.body).unwrap();
        assert_eq!(
            sent,
            json!({"messages": [{"to": "+353871234567", "text": "\",\"to\":\"1\"}", "n": 1, "on": true, "x": null,
                                  "ref": "o-1-00000000-1"}]})
        );
        let shown = format!("{dialect:?} {prepared:?}");
        assert!(
            !shown.contains("k3y") && !shown.contains("dXNl") && !shown.contains("353871234567"),
            "{shown}"
        );
    }

    #[test]
    fn a_text_in_the_url_cannot_add_a_field() {
        let cfg = settings("https://gw.example.test/s?t={text}&k=1", HttpMethod::Post, HttpBody::None);
        let dialect = HttpTemplate::build(&cfg).unwrap();
        let prepared = dialect.request(&[outgoing_for_tests("x&k=2#y\n é")], None).unwrap();
        assert_eq!(prepared.url.as_str(), "https://gw.example.test/s?t=x%26k%3D2%23y%0A+%C3%A9&k=1");
    }

    #[test]
    fn rules_are_tried_in_order_and_the_id_must_be_where_it_was_said() {
        let mut cfg = settings("https://gw.example.test/s", HttpMethod::Post, fields(&[("t", "{text}")]));
        let status = |value: &str, class| HttpRule {
            status: (200, 200),
            body_starts_with: None,
            json_equals: Some(("/messages/0/status".to_owned(), value.to_owned())),
            class,
        };
        cfg.rules = vec![
            status("0", CodeClass::Accepted),
            status("1", CodeClass::Throttled),
            status("9", CodeClass::NoCredit),
            rule((200, 200), None, CodeClass::Rejected),
        ];
        cfg.message_id = Some(Extract::JsonPointer("/messages/0/message-id".to_owned()));
        cfg.error = Some(Extract::JsonPointer("/messages/0/error-text".to_owned()));
        let dialect = HttpTemplate::build(&cfg).unwrap();
        let verdict = |body: serde_json::Value| {
            dialect.verdict(&Answer::new(200, body.to_string()), Private::default())
        };
        assert_eq!(
            verdict(json!({"messages": [{"status": "0", "message-id": "A1"}]})),
            Verdict::Accepted { gateway_message_id: Some("A1".to_owned()), note: None }
        );
        assert!(matches!(verdict(json!({"messages": [{"status": 0}]})), Verdict::Unknown { .. }));
        assert!(matches!(
            verdict(json!({"messages": [{"status": "1"}]})),
            Verdict::Deferred { cause: DeferCause::Throttled, .. }
        ));
        let Verdict::Rejected { reason, .. } =
            verdict(json!({"messages": [{"status": "3", "error-text": "no to"}]}))
        else {
            panic!("the last rule takes the rest");
        };
        assert!(reason.ends_with("\"no to\""), "{reason}");
    }

    #[test]
    fn an_id_can_stand_in_plain_text() {
        let mut cfg = settings("http://127.0.0.1/send", HttpMethod::Get, fields(&[("content", "{text}")]));
        cfg.rules = vec![rule((200, 200), Some("Success"), CodeClass::Accepted)];
        cfg.message_id = Some(Extract::After("Success \"".to_owned()));
        let answer = Answer::new(200, "Success \"07033084-5cfd\"");
        let verdict = HttpTemplate::build(&cfg).unwrap().verdict(&answer, Private::default());
        assert_eq!(
            verdict,
            Verdict::Accepted { gateway_message_id: Some("07033084-5cfd".to_owned()), note: None }
        );
    }

    #[test]
    fn what_stands_in_the_place_of_the_id_and_is_none_proves_nothing() {
        let mut cfg = settings("http://127.0.0.1/send", HttpMethod::Get, fields(&[("content", "{text}")]));
        cfg.rules = vec![rule((200, 200), None, CodeClass::Accepted)];
        cfg.message_id = Some(Extract::Body);
        let dialect = HttpTemplate::build(&cfg).unwrap();
        let verdict = |body: &str| dialect.verdict(&Answer::new(200, body.to_owned()), Private::default());
        for body in ["0A0000000123ABC1\n", "7e3f:9", "bWFpbA=="] {
            assert!(matches!(verdict(body), Verdict::Accepted { .. }), "{body}");
        }
        for body in ["", "<html>Log in</html>", "Service unavailable", "{\"id\":1}", &"a".repeat(129)] {
            assert!(matches!(verdict(body), Verdict::Unknown { .. }), "{body}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let post = |url: &str, body| HttpTemplate::build(&settings(url, HttpMethod::Post, body)).is_err();
        assert!(post("https://{recipient}.example.test/s", HttpBody::None));
        assert!(post("https://gw.example.test/{text}", HttpBody::None));
        assert!(post("https://gw.example.test/s?x={nope}", HttpBody::None));
        assert!(post("ftp://gw.example.test/s", HttpBody::None));
        assert!(post("https://gw.example.test/s", fields(&[("a", "{")])));
        assert!(
            HttpTemplate::build(&settings("http://127.0.0.1/", HttpMethod::Get, HttpBody::Json(json!(1))))
                .is_err()
        );
        let mut cfg = kannel();
        cfg.rules = vec![rule((200, 599), None, CodeClass::Accepted)];
        assert!(HttpTemplate::build(&cfg).is_err());
    }

    #[test]
    fn base64_follows_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![any::<Vec<u8>>(), "[ \n]?[03]?:? ?.{0,9}".prop_map(String::into_bytes)]
    }

    proptest! {
        #[test]
        fn accepted_means_that_a_rule_matched_a_whole_success(
            status in prop_oneof![any::<u16>(), 200_u16..210],
            body in bodies(),
            truncated: bool,
        ) {
            let mut answer = Answer::new(status, body.clone());
            answer.truncated = truncated;
            let verdict = HttpTemplate::build(&kannel()).unwrap().verdict(&answer, Private::default());
            if let Verdict::Accepted { .. } = verdict {
                prop_assert!(status == 202 && !truncated);
                let body = body.trim_ascii_start();
                prop_assert!(body.starts_with(b"0:") || body.starts_with(b"3:"));
            }
        }
    }
}
