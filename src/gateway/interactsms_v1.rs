//! InteractSMS v1, as a form or as JSON: credentials in every request, HTTP 200 whatever happened, and a body whose
//! first line is a code.
//!
//! Pure. Credentials go into the POST body and nowhere else: in a query they would end up in proxy logs.
//! The pages contradict each other on names and charset; those are options. One recipient a request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::Value;
use url::Url;

use crate::config::{self, Charset, CodeClass, Newline, Secret};
use crate::gateway::answer::{Answer, by_class, by_status};
use crate::gateway::quote::Private;
use crate::gateway::{BuildError, Dialect, Prepared, parse_url};
use crate::message::{Outgoing, Refusal};
use crate::verdict::Verdict;

/// Longer first lines are not codes.
const CODE_CHARS: usize = 16;
/// The sign that the gateway turns back into a line break.
const NOT_SIGN: char = '\u{ac}';

pub(super) struct InteractsmsV1 {
    url: Url,
    credentials: Credentials,
    notify_field: String,
    newline: Newline,
    codes: BTreeMap<String, CodeClass>,
}

/// The part of every request that is the same, ready made where it can be.
enum Credentials {
    Form { encoded: Secret, charset: Charset },
    Json { user: String, password: Secret, api_id: Value },
}

impl InteractsmsV1 {
    pub(super) fn build(cfg: &config::InteractsmsV1) -> Result<InteractsmsV1, BuildError> {
        let credentials = if cfg.json {
            // The pages show a number; an id that is none travels as text.
            let api_id = cfg.api_id.parse::<u64>().map_or_else(|_| cfg.api_id.clone().into(), Value::from);
            Credentials::Json { user: cfg.user.clone(), password: cfg.password.clone(), api_id }
        } else {
            let mut encoded = String::new();
            for (name, value) in
                [("user", cfg.user.as_str()), ("password", cfg.password.expose()), ("api_id", &cfg.api_id)]
            {
                push_field(&mut encoded, name, value, cfg.charset)
                    .map_err(|refusal| BuildError::Setting { setting: name, reason: refusal.reason })?;
            }
            Credentials::Form { encoded: Secret::new(encoded), charset: cfg.charset }
        };
        Ok(InteractsmsV1 {
            url: parse_url("url", &cfg.url)?,
            credentials,
            notify_field: cfg.notify_field.clone(),
            newline: cfg.newline,
            codes: cfg.codes.clone(),
        })
    }
}

impl fmt::Debug for InteractsmsV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InteractsmsV1").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Dialect for InteractsmsV1 {
    fn request(&self, messages: &[Outgoing], _token: Option<&Secret>) -> Result<Prepared, Refusal> {
        let [message] = messages else {
            return Err(Refusal::new("empty_request", "this gateway takes one message a request"));
        };
        let text = line_breaks(&message.text, self.newline)?;
        let (content_type, body) = match &self.credentials {
            Credentials::Form { encoded, charset } => {
                let body = self.form(message, &text, encoded, *charset)?;
                let content_type = match charset {
                    Charset::Utf8 => "application/x-www-form-urlencoded; charset=utf-8",
                    Charset::Latin1 => "application/x-www-form-urlencoded; charset=iso-8859-1",
                };
                (content_type, body.into_bytes())
            }
            Credentials::Json { user, password, api_id } => {
                let submission = Submission { user, password, api_id, message, text: &text, dialect: self };
                let body = serde_json::to_vec(&submission)
                    .map_err(|_| Refusal::new("unsendable_text", "the message cannot be written as JSON"))?;
                ("application/json", body)
            }
        };
        let mut headers = HeaderMap::with_capacity(1);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Ok(Prepared { method: Method::POST, url: self.url.clone(), headers, body: Bytes::from(body) })
    }

    fn verdict(&self, answer: &Answer, private: Private<'_>) -> Verdict {
        if answer.status != 200 || answer.truncated {
            return by_status(answer);
        }
        let Some((code, said)) = self.status_line(answer) else { return by_status(answer) };
        if code == "0" {
            return Verdict::Accepted { gateway_message_id: None, note: None };
        }
        if let Some(class) = self.codes.get(&code) {
            return by_class(*class, answer, Some(&private.quote(&format!("code {code} {said}"))));
        }
        if !is_code(&code) {
            return by_status(answer);
        }
        let mut reason = format!("the gateway refused the message with code {}", private.quote(&code));
        if !said.trim().is_empty() {
            reason.push_str(&format!(": \"{}\"", private.quote(&said)));
        }
        Verdict::Rejected { code: "gateway_refused", reason }
    }
}

impl InteractsmsV1 {
    fn form(
        &self,
        message: &Outgoing,
        text: &str,
        credentials: &Secret,
        charset: Charset,
    ) -> Result<String, Refusal> {
        let mut body = String::with_capacity(credentials.expose().len() + 3 * text.len() + 160);
        body.push_str(credentials.expose());
        for (name, value) in [
            ("to", message.recipient.as_str()),
            ("text", text),
            ("from", &message.sender),
            (&self.notify_field, &message.gateway_ref),
        ] {
            push_field(&mut body, name, value, charset)?;
        }
        Ok(body)
    }

    /// First line and the rest of the two-part text that both variants carry.
    fn status_line(&self, answer: &Answer) -> Option<(String, String)> {
        let text: Cow<'_, str> = match &self.credentials {
            // The words may be in any charset; the code is ASCII.
            Credentials::Form { .. } => String::from_utf8_lossy(&answer.body),
            Credentials::Json { .. } => {
                #[derive(serde::Deserialize)]
                struct Own {
                    status: Value,
                }
                match answer.object::<Own>()?.status {
                    Value::String(text) => Cow::Owned(text),
                    Value::Number(number) => Cow::Owned(number.to_string()),
                    Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
                }
            }
        };
        let text = text.trim_start_matches('\u{feff}').trim();
        let (code, said) = text.split_once('\n').unwrap_or((text, ""));
        Some((code.trim().to_owned(), said.to_owned()))
    }
}

/// Codes other than 0 are documented nowhere, so any whole number is taken for one. `00` or `-0` is not: it may be
/// meant as success.
fn is_code(code: &str) -> bool {
    let digits = code.strip_prefix('-').unwrap_or(code);
    code.len() <= CODE_CHARS
        && digits.bytes().all(|b| b.is_ascii_digit())
        && digits.bytes().any(|b| b != b'0')
}

/// One sign for each line break, CRLF counting as one.
fn line_breaks(text: &str, newline: Newline) -> Result<Cow<'_, str>, Refusal> {
    match newline {
        Newline::Keep => Ok(Cow::Borrowed(text)),
        Newline::NotSign if text.contains(NOT_SIGN) => Err(Refusal::new(
            "unsendable_character",
            "the text holds the sign ¬ (U+00AC), which this gateway turns into a line break; remove it",
        )),
        Newline::NotSign if !text.contains(['\r', '\n']) => Ok(Cow::Borrowed(text)),
        Newline::NotSign => Ok(Cow::Owned(text.replace("\r\n", "\u{ac}").replace(['\r', '\n'], "\u{ac}"))),
    }
}

/// Appends `name=value`, percent-encoded in `charset`. A character that the charset lacks is refused, never replaced.
fn push_field(body: &mut String, name: &str, value: &str, charset: Charset) -> Result<(), Refusal> {
    if !body.is_empty() {
        body.push('&');
    }
    body.extend(form_urlencoded::byte_serialize(name.as_bytes()));
    body.push('=');
    match charset {
        Charset::Utf8 => body.extend(form_urlencoded::byte_serialize(value.as_bytes())),
        Charset::Latin1 => body.extend(form_urlencoded::byte_serialize(&latin1(value)?)),
    }
    Ok(())
}

fn latin1(value: &str) -> Result<Vec<u8>, Refusal> {
    value
        .chars()
        .map(|c| {
            u8::try_from(u32::from(c)).map_err(|_| {
                Refusal::new(
                    "unsendable_character",
                    format!("the character {c} (U+{:04X}) does not exist in Latin-1", u32::from(c)),
                )
            })
        })
        .collect()
}

struct Submission<'a> {
    user: &'a str,
    password: &'a Secret,
    api_id: &'a Value,
    message: &'a Outgoing,
    text: &'a str,
    dialect: &'a InteractsmsV1,
}

/// By hand, because the name of one field comes from the configuration.
impl Serialize for Submission<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(7))?;
        map.serialize_entry("User", self.user)?;
        map.serialize_entry("Password", self.password.expose())?;
        map.serialize_entry("ApiId", self.api_id)?;
        map.serialize_entry("To", &self.message.recipient)?;
        map.serialize_entry("Text", self.text)?;
        map.serialize_entry("SenderId", &self.message.sender)?;
        map.serialize_entry(&self.dialect.notify_field, &self.message.gateway_ref)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::InteractsmsV1;
    use crate::config::{self, Charset, CodeClass, Newline, Secret};
    use crate::gateway::answer::Answer;
    use crate::gateway::quote::Private;
    use crate::gateway::{Dialect, outgoing_for_tests};
    use crate::verdict::{DeferCause, Verdict};

    fn settings(json: bool) -> config::InteractsmsV1 {
        config::InteractsmsV1 {
            url: "https://secure.example.test/api/v1/sendmessage.aspx".to_owned(),
            json,
            user: "us&er".to_owned(),
            password: Secret::new("p w=1"),
            api_id: "42".to_owned(),
            notify_field: if json { "NotifyId" } else { "NotifyID" }.to_owned(),
            newline: Newline::NotSign,
            charset: Charset::Utf8,
            codes: BTreeMap::from([
                ("7".to_owned(), CodeClass::NoCredit),
                ("BUSY".to_owned(), CodeClass::Busy),
            ]),
        }
    }

    fn dialect(json: bool) -> InteractsmsV1 {
        InteractsmsV1::build(&settings(json)).unwrap()
    }

    fn body(dialect: &InteractsmsV1, text: &str) -> String {
        let prepared = dialect.request(&[outgoing_for_tests(text)], None).unwrap();
        assert_eq!(prepared.url.query(), None, "credentials stay out of the URL");
        String::from_utf8(prepared.body.to_vec()).unwrap()
    }

    fn form_verdict(status: u16, body: &str) -> Verdict {
        dialect(false).verdict(&Answer::new(status, body.to_owned()), Private::default())
    }

    #[test]
    fn the_form_has_the_documented_fields() {
        assert_eq!(
            body(&dialect(false), "a b\r\nc\n\rd é"),
            "user=us%26er&password=p+w%3D1&api_id=42&to=353871234567&text=a+b%C2%ACc%C2%AC%C2%ACd+%C3%A9\
             &from=Clinic&NotifyID=1-00000000-1"
        );
    }

    #[test]
    fn the_json_has_the_documented_fields() {
        assert_eq!(
            body(&dialect(true), "a\nb \"é"),
            r#"{"User":"us&er","Password":"p w=1","ApiId":42,"To":"353871234567","Text":"a¬b \"é","SenderId":"Clinic","NotifyId":"1-00000000-1"}"#
        );
    }

    #[test]
    fn names_line_breaks_and_charset_follow_the_configuration() {
        let mut cfg = settings(false);
        cfg.notify_field = "notify_id".to_owned();
        cfg.newline = Newline::Keep;
        cfg.charset = Charset::Latin1;
        let dialect = InteractsmsV1::build(&cfg).unwrap();
        let body = body(&dialect, "¬\né");
        assert!(body.contains("&text=%AC%0A%E9&"), "{body}");
        assert!(body.ends_with("&notify_id=1-00000000-1"), "{body}");
    }

    #[test]
    fn what_would_arrive_as_something_else_is_refused_before_it_is_sent() {
        let refused = dialect(false).request(&[outgoing_for_tests("a ¬ b")], None).unwrap_err();
        assert_eq!(refused.code, "unsendable_character");
        let mut cfg = settings(false);
        cfg.charset = Charset::Latin1;
        let latin1 = InteractsmsV1::build(&cfg).unwrap();
        let refused = latin1.request(&[outgoing_for_tests("5 €")], None).unwrap_err();
        assert_eq!(refused.code, "unsendable_character");
        assert!(refused.reason.contains("U+20AC"), "{}", refused.reason);
    }

    #[test]
    fn only_a_first_line_of_0_is_accepted() {
        for body in ["0\nRequest deferred successfully\n", "0", " 0 \r\nok", "\u{feff}0\nok"] {
            assert!(matches!(form_verdict(200, body), Verdict::Accepted { .. }), "{body:?}");
            let json = serde_json::json!({ "status": body }).to_string();
            let verdict = dialect(true).verdict(&Answer::new(200, json), Private::default());
            assert!(matches!(verdict, Verdict::Accepted { .. }), "{body:?}");
        }
        for body in
            ["", "\n", "00", "-0", "0 ok", "0.", "<html>0\n</html>", "OK", "success", "{\"status\":\"0\"}"]
        {
            assert!(matches!(form_verdict(200, body), Verdict::Unknown { .. }), "{body:?}");
        }
        for body in [
            "",
            "0",
            "{}",
            "[]",
            r#"["0"]"#,
            r#"["7"]"#,
            r#"{"status":null}"#,
            r#"{"status":true}"#,
            r#"{"Status":"0"}"#,
        ] {
            let verdict = dialect(true).verdict(&Answer::new(200, body), Private::default());
            assert!(matches!(verdict, Verdict::Unknown { .. }), "{body:?}");
        }
        let not_utf8 = Answer::new(200, &b"{\"status\":\"0\",\"more\":\"\xe6\"}"[..]);
        assert!(matches!(dialect(true).verdict(&not_utf8, Private::default()), Verdict::Unknown { .. }));
        let mut cut = Answer::new(200, "0\nRequest");
        cut.truncated = true;
        assert!(matches!(dialect(false).verdict(&cut, Private::default()), Verdict::Unknown { .. }));
    }

    #[test]
    fn other_codes_are_refusals_unless_the_operator_maps_them() {
        let Verdict::Rejected { code, reason } = form_verdict(200, "12\nInvalid number 353871234567") else {
            panic!("code 12 is a refusal");
        };
        assert_eq!(code, "gateway_refused");
        assert_eq!(reason, "the gateway refused the message with code 12: \"Invalid number 3538******67\"");
        let deferred = |body| match form_verdict(200, body) {
            Verdict::Deferred { cause, .. } => Some(cause),
            Verdict::Accepted { .. } | Verdict::Rejected { .. } | Verdict::Unknown { .. } => None,
        };
        assert_eq!(deferred("7\nno money"), Some(DeferCause::NoCredit));
        assert_eq!(deferred("BUSY"), Some(DeferCause::Busy));
        assert!(matches!(form_verdict(500, "0"), Verdict::Unknown { .. }));
        assert!(matches!(form_verdict(204, "0"), Verdict::Unknown { .. }), "only 200 is documented");
    }

    #[test]
    fn debug_shows_no_secret() {
        for json in [false, true] {
            let shown = format!("{:?}", dialect(json));
            assert!(!shown.contains("p w") && !shown.contains("p+w"), "{shown}");
        }
    }

    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![any::<Vec<u8>>(), "[ \n]?-?[0-9A-Z]{0,3}(\r?\n.*)?".prop_map(String::into_bytes)]
    }

    proptest! {
        #[test]
        fn accepted_means_200_and_a_first_line_of_0(status in any::<u16>(), body in bodies(), json: bool) {
            if let Verdict::Accepted { .. } = dialect(json).verdict(&Answer::new(status, body.clone()), Private::default()) {
                prop_assert_eq!(status, 200);
                if !json {
                    let text = String::from_utf8_lossy(&body);
                    let text = text.trim_start_matches('\u{feff}').trim();
                    prop_assert_eq!(text.lines().next().map(str::trim), Some("0"));
                }
            }
        }

        #[test]
        fn a_form_can_be_read_back(text in "[^¬\r\n]{1,50}") {
            let body = body(&dialect(false), &text);
            let read = form_urlencoded::parse(body.as_bytes()).find(|(name, _)| name == "text");
            prop_assert!(read.is_some_and(|(_, value)| value == text));
        }
    }
}
