//! InteractSMS v2: one Campaign of one recipient, or of several where that is configured, with a bearer token.
//!
//! Pure. What the API's pages leave open is decided for safety: an answer that is not clearly theirs is unknown.
//! No answer carries an id; receipts name the message by the NotifyId that is sent along.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use crate::config::{self, CodeClass, Secret};
use crate::gateway::answer::{Answer, by_class, by_status, class_of_status};
use crate::gateway::quote::Private;
use crate::gateway::skipped::{Entry, Members, words};
use crate::gateway::{BuildError, Dialect, Prepared, parse_url};
use crate::message::{Outgoing, Refusal};
use crate::verdict::{DeferCause, Joint, Verdict};

#[derive(Debug)]
pub(super) struct InteractsmsV2 {
    url: Url,
    campaign_name: Option<String>,
}

impl InteractsmsV2 {
    pub(super) fn build(cfg: &config::InteractsmsV2) -> Result<InteractsmsV2, BuildError> {
        let url = parse_url("api_url", &format!("{}/api/v2/Campaign", cfg.api_url.trim_end_matches('/')))?;
        Ok(InteractsmsV2 { url, campaign_name: cfg.campaign_name.clone() })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Campaign<'a> {
    text: &'a str,
    from: &'a str,
    recipient_info: Recipients<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    campaign_name: Option<&'a str>,
}

/// Serialises straight from the messages, without a list of its own.
struct Recipients<'a>(&'a [Outgoing]);

impl Serialize for Recipients<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.0
                .iter()
                .map(|message| Recipient { msisdn: &message.recipient, notify_id: &message.gateway_ref }),
        )
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Recipient<'a> {
    msisdn: &'a str,
    notify_id: &'a str,
}

impl Dialect for InteractsmsV2 {
    fn request(&self, messages: &[Outgoing], token: Option<&Secret>) -> Result<Prepared, Refusal> {
        let Some(first) = messages.first() else {
            return Err(Refusal::new("empty_request", "there is no message to send"));
        };
        let campaign = Campaign {
            text: &first.text,
            from: &first.sender,
            recipient_info: Recipients(messages),
            campaign_name: self.campaign_name.as_deref(),
        };
        let body = serde_json::to_vec(&campaign)
            .map_err(|_| Refusal::new("unsendable_text", "the message cannot be written as JSON"))?;
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(bearer) = token.and_then(bearer) {
            headers.insert(AUTHORIZATION, bearer);
        }
        Ok(Prepared { method: Method::POST, url: self.url.clone(), headers, body: Bytes::from(body) })
    }

    fn verdict(&self, answer: &Answer, private: Private<'_>) -> Verdict {
        let own = answer.object::<Own>();
        match answer.status {
            200..=299 => match own {
                Some(own) if own.success => own.success_verdict(answer, private),
                Some(own) => own.refusal(answer, CodeClass::Rejected, private),
                None => by_status(answer),
            },
            // Only the gateway itself can say that it did not take the message; a balancer in front of it, which
            // makes these three up when an answer is late, cannot.
            502..=504 => match own {
                Some(own) if !own.success => own.refusal(answer, CodeClass::Busy, private),
                _ => by_status(answer),
            },
            400 | 422 => match own {
                Some(own) => own.refusal(answer, CodeClass::Rejected, private),
                None => by_status(answer),
            },
            status => {
                let said = own.and_then(|own| own.text()).map(|text| private.quote(&text));
                by_class(class_of_status(status), answer, said.as_deref())
            }
        }
    }

    /// A request that takes some recipients and skips others *succeeds*, by the API's pages, and lists who was skipped.
    /// So one that does not succeed has taken nobody, and one that succeeds has taken whoever is not listed.
    fn joint_verdict(&self, answer: &Answer, messages: &[Outgoing], private: Private<'_>) -> Joint {
        let whole = self.verdict(answer, private);
        let own = answer.object::<Own>().filter(|own| answer.is_whole_success() && !is_empty(&own.errors));
        let Some(own) = own else { return Joint::of(whole) };
        let entries = Members::of(messages).read(&own.errors);
        if own.success {
            partial(answer, messages.len(), &entries, private)
        } else {
            all_or_some(whole, answer, messages.len(), &entries, private)
        }
    }
}

/// Success, with a list of those who were skipped.
fn partial(answer: &Answer, messages: usize, entries: &[Entry], private: Private<'_>) -> Joint {
    let exceptions = named(answer, entries, private);
    let accepted = |note| Verdict::Accepted { gateway_message_id: None, note };
    // Where everybody is named, nobody is left whom another entry could mean.
    let nameless = entries.iter().find(|entry| entry.names.is_none() && exceptions.len() < messages);
    let Some(nameless) = nameless else {
        return Joint { verdict: accepted(None), exceptions, unmatched: None };
    };
    let said = private.quote(&nameless.text);
    let note = format!(
        "the gateway took the request that this message shared with {} others, and skipped one or more of them that it does \
         not name: \"{said}\"",
        messages.saturating_sub(1)
    );
    Joint { verdict: accepted(Some(note)), exceptions, unmatched: Some(said) }
}

/// No success. If it names only some of the messages, that contradicts what is known of partial success, and what became
/// of the others is not known.
fn all_or_some(
    whole: Verdict,
    answer: &Answer,
    messages: usize,
    entries: &[Entry],
    private: Private<'_>,
) -> Joint {
    let exceptions = named(answer, entries, private);
    if exceptions.is_empty() {
        return Joint::of(whole);
    }
    let verdict = if exceptions.len() < messages {
        Verdict::Unknown {
            reason: "the gateway refused some of the messages of a request, and does not say what became of the others"
                .to_owned(),
        }
    } else {
        whole
    };
    Joint { verdict, exceptions, unmatched: None }
}

/// The messages that entries name, each with what the first of them says.
fn named(answer: &Answer, entries: &[Entry], private: Private<'_>) -> Vec<(usize, Verdict)> {
    let mut named = BTreeMap::new();
    for entry in entries {
        if let Some(at) = entry.names {
            named
                .entry(at)
                .or_insert_with(|| refusal(Some(&entry.text), answer, CodeClass::Rejected, private));
        }
    }
    named.into_iter().collect()
}

/// `Authorization: Bearer …`; `None` for a token that no header can carry (log-in refuses those).
pub(super) fn bearer(token: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The gateway's own shape of an answer: recognised by its `success`.
#[derive(Deserialize)]
struct Own {
    success: bool,
    #[serde(default)]
    message: Value,
    #[serde(default)]
    errors: Value,
}

/// What the gateway's known texts mean, wherever they turn up.
enum Known {
    NoCredit,
    SenderNotValid,
}

fn recognise(text: &str) -> Option<Known> {
    let text = text.to_ascii_lowercase();
    if text.contains("no credit") {
        Some(Known::NoCredit)
    } else if text.contains("sender is not valid") {
        Some(Known::SenderNotValid)
    } else {
        None
    }
}

impl Own {
    /// `success: true`. `errors` lists the recipients that were skipped while the others were taken. We send one
    /// recipient, so an entry that says anything can only be about it: it was skipped. The shape of an entry is
    /// not documented, hence any that carries text will do; one that carries none proves nothing.
    fn success_verdict(&self, answer: &Answer, private: Private<'_>) -> Verdict {
        if is_empty(&self.errors) {
            return Verdict::Accepted { gateway_message_id: None, note: None };
        }
        if text_of(&self.errors).is_none() {
            return Verdict::Unknown {
                reason: "the gateway reported success together with an error that it does not name"
                    .to_owned(),
            };
        }
        self.refusal(answer, CodeClass::Rejected, private)
    }

    /// Not accepted; `class` unless the text names something that we know.
    fn refusal(&self, answer: &Answer, class: CodeClass, private: Private<'_>) -> Verdict {
        refusal(self.text().as_deref(), answer, class, private)
    }

    /// What the gateway says: its errors if there are any, and its message otherwise.
    fn text(&self) -> Option<String> {
        if self.success {
            text_of(&self.errors)
        } else {
            text_of(&self.errors).or_else(|| text_of(&self.message))
        }
    }
}

/// Not accepted, in these words of the gateway.
fn refusal(text: Option<&str>, answer: &Answer, class: CodeClass, private: Private<'_>) -> Verdict {
    let said = text.map(|text| private.quote(text));
    match text.and_then(recognise) {
        Some(Known::NoCredit) => Verdict::Deferred {
            cause: DeferCause::NoCredit,
            retry_after: None,
            reason: "the gateway account has no credits; buy credits, then start the gateway again"
                .to_owned(),
        },
        Some(Known::SenderNotValid) => Verdict::Rejected {
            code: "sender_not_valid",
            reason: format!(
                "the gateway does not know this sender (\"{}\"); use one from the account's sender list",
                said.as_deref().unwrap_or_default()
            ),
        },
        None => by_class(class, answer, said.as_deref()),
    }
}

/// Nothing listed, in whatever way the gateway may write that.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.trim().is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn text_of(value: &Value) -> Option<String> {
    Some(words(value)).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_oneof, proptest};

    use super::InteractsmsV2;
    use crate::config::{self, Secret};
    use crate::gateway::answer::Answer;
    use crate::gateway::quote::Private;
    use crate::gateway::{Dialect, outgoing_for_tests};
    use crate::message::Outgoing;
    use crate::verdict::{DeferCause, Joint, Verdict};

    fn dialect() -> InteractsmsV2 {
        InteractsmsV2::build(&config::InteractsmsV2 {
            api_url: "https://api.example.test".to_owned(),
            token_url: "https://auth.example.test/token".to_owned(),
            username: "u".to_owned(),
            password: Secret::new("p"),
            campaign_name: None,
            coalesce: 1,
        })
        .unwrap()
    }

    fn verdict(status: u16, body: &str) -> Verdict {
        dialect().verdict(&Answer::new(status, body.to_owned()), Private::default())
    }

    fn cause(status: u16, body: &str) -> Option<DeferCause> {
        match verdict(status, body) {
            Verdict::Deferred { cause, .. } => Some(cause),
            Verdict::Accepted { .. } | Verdict::Rejected { .. } | Verdict::Unknown { .. } => None,
        }
    }

    fn refused_with(status: u16, body: &str) -> Option<(&'static str, String)> {
        match verdict(status, body) {
            Verdict::Rejected { code, reason } => Some((code, reason)),
            Verdict::Accepted { .. } | Verdict::Deferred { .. } | Verdict::Unknown { .. } => None,
        }
    }

    #[test]
    fn the_request_is_the_documented_campaign() {
        let prepared =
            dialect().request(&[outgoing_for_tests("Fáilte €5")], Some(&Secret::new("a.b.c"))).unwrap();
        assert_eq!(prepared.url.as_str(), "https://api.example.test/api/v2/Campaign");
        assert_eq!(prepared.headers["authorization"], "Bearer a.b.c");
        assert!(prepared.headers["authorization"].is_sensitive());
        assert_eq!(
            std::str::from_utf8(&prepared.body).unwrap(),
            r#"{"text":"Fáilte €5","from":"Clinic","recipientInfo":[{"msisdn":"353871234567","notifyId":"1-00000000-1"}]}"#
        );
    }

    #[test]
    fn success_without_errors_is_accepted() {
        for body in [
            r#"{"success":true,"message":"Campaign scheduled","errors":[]}"#,
            r#"{"success":true,"message":null,"errors":null}"#,
            r#"{"success":true}"#,
        ] {
            assert!(matches!(verdict(200, body), Verdict::Accepted { .. }), "{body}");
            assert!(matches!(verdict(201, body), Verdict::Accepted { .. }), "{body}");
            for status in [301, 400, 401, 403, 404, 408, 422, 429, 500, 502, 503, 504] {
                assert!(!matches!(verdict(status, body), Verdict::Accepted { .. }), "{status} {body}");
            }
        }
    }

    #[test]
    fn any_error_beside_success_means_that_the_only_recipient_was_skipped() {
        for errors in [
            r#"["Invalid number"]"#,
            r#"[{"msisdn":"353871234567","error":"Invalid number"}]"#,
            r#"{"353871234567":["Invalid number"]}"#,
            r#""Invalid number""#,
        ] {
            let body = format!(r#"{{"success":true,"message":"Campaign scheduled","errors":{errors}}}"#);
            let (code, reason) = refused_with(200, &body).unwrap_or_else(|| panic!("{body}"));
            assert_eq!(code, "gateway_refused");
            assert!(reason.contains("Invalid number"), "{reason}");
            assert!(!reason.contains("353871234567"), "{reason}");
        }
        for errors in ["[null]", r#"[""]"#, "[{}]", "true"] {
            let body = format!(r#"{{"success":true,"errors":{errors}}}"#);
            assert!(matches!(verdict(200, &body), Verdict::Unknown { .. }), "{body}");
        }
    }

    fn three() -> Vec<Outgoing> {
        let message = |n: u32| Outgoing {
            recipient: format!("35387123456{n}"),
            gateway_ref: format!("{n}-00000000-1"),
            ..outgoing_for_tests("Fáilte")
        };
        (1..=3).map(message).collect()
    }

    fn joint(status: u16, body: &str) -> Joint {
        dialect().joint_verdict(&Answer::new(status, body.to_owned()), &three(), Private::default())
    }

    #[test]
    fn messages_that_share_a_request_are_one_campaign_with_a_reference_each() {
        let prepared = dialect().request(&three(), None).unwrap();
        assert_eq!(
            std::str::from_utf8(&prepared.body).unwrap(),
            r#"{"text":"Fáilte","from":"Clinic","recipientInfo":[{"msisdn":"353871234561","notifyId":"1-00000000-1"},{"msisdn":"353871234562","notifyId":"2-00000000-1"},{"msisdn":"353871234563","notifyId":"3-00000000-1"}]}"#
        );
    }

    #[test]
    fn an_answer_that_lists_nobody_means_the_same_for_each() {
        for (status, body) in [
            (200, r#"{"success":true,"errors":[]}"#),
            (200, r#"{"success":true"#),
            (200, r#"{"success":false,"message":"no"}"#),
            (400, r#"{"success":false,"errors":["353871234561 is wrong"]}"#),
            (422, "<html>"),
            (429, "slow down"),
            (500, ""),
            (503, r#"{"success":false,"errors":["1-00000000-1"]}"#),
        ] {
            assert_eq!(joint(status, body), Joint::of(verdict(status, body)), "{status} {body}");
        }
    }

    #[test]
    fn of_those_that_shared_a_request_the_named_are_refused_and_the_others_accepted() {
        let body = r#"{"success":true,"errors":[
            {"notifyId":"3-00000000-1","message":"No credits available"},
            {"msisdn":"353871234562","message":"Invalid MSISDN"},
            "353871234562: once more"]}"#;
        let Joint { verdict, exceptions, unmatched } = joint(200, body);
        assert_eq!(verdict, Verdict::Accepted { gateway_message_id: None, note: None });
        assert_eq!(unmatched, None);
        let [(1, Verdict::Rejected { code, reason }), (2, Verdict::Deferred { cause, .. })] = &exceptions[..]
        else {
            panic!("{exceptions:?}");
        };
        assert_eq!((*code, *cause), ("gateway_refused", DeferCause::NoCredit));
        assert!(reason.contains("Invalid MSISDN") && !reason.contains("353871234562"), "{reason}");
    }

    #[test]
    fn one_who_was_skipped_and_is_not_named_leaves_a_note_with_all_who_are_left() {
        for errors in [r#"["Invalid MSISDN"]"#, r#"[null]"#, "true", r#"["353871234561 or 353871234562"]"#] {
            let Joint { verdict, exceptions, unmatched } =
                joint(200, &format!(r#"{{"success":true,"errors":{errors}}}"#));
            let Verdict::Accepted { note: Some(note), .. } = verdict else { panic!("{errors}: {verdict:?}") };
            assert!(note.contains("2 others") && !note.contains("353871234561"), "{note}");
            assert!(unmatched.is_some() && exceptions.is_empty());
        }
        // Nobody is left whom it could mean.
        let all = r#"{"success":true,"errors":["353871234561","353871234562","353871234563","Invalid"]}"#;
        let Joint { exceptions, unmatched, .. } = joint(200, all);
        assert_eq!((exceptions.len(), unmatched), (3, None));
    }

    #[test]
    fn no_success_that_names_some_says_nothing_of_the_others() {
        let Joint { verdict, exceptions, .. } =
            joint(200, r#"{"success":false,"errors":[{"msisdn":"353871234562","message":"Barred"}]}"#);
        assert!(matches!(verdict, Verdict::Unknown { .. }), "{verdict:?}");
        assert!(matches!(exceptions[..], [(1, Verdict::Rejected { .. })]), "{exceptions:?}");
    }

    #[test]
    fn a_refusal_keeps_the_words_of_the_gateway() {
        let (code, reason) = refused_with(200, r#"{"success":false,"message":"Text is empty"}"#).unwrap();
        assert_eq!((code, reason.contains("Text is empty")), ("gateway_refused", true));
        assert!(refused_with(400, "").is_some() && refused_with(422, "<html>").is_some());
        let (code, _) = refused_with(200, r#"{"success":false,"message":"Sender is not valid"}"#).unwrap();
        assert_eq!(code, "sender_not_valid");
        let no_credit = "Error trying to add a new message. No credits available";
        for status in [200, 400] {
            let body = format!(r#"{{"success":false,"errors":["{no_credit}"]}}"#);
            assert_eq!(cause(status, &body), Some(DeferCause::NoCredit));
        }
    }

    #[test]
    fn statuses_that_say_something_about_the_gateway_defer() {
        assert_eq!(cause(401, ""), Some(DeferCause::Unauthorized));
        for status in [301, 302, 307, 403, 404, 405, 407] {
            assert_eq!(cause(status, "<html>"), Some(DeferCause::Misconfigured), "{status}");
        }
        assert_eq!(cause(429, "slow down"), Some(DeferCause::Throttled));
        for status in [502, 503, 504] {
            let own = r#"{"success":false,"message":"Try later"}"#;
            assert_eq!(cause(status, own), Some(DeferCause::Busy), "{status}");
        }
    }

    #[test]
    fn what_is_not_clearly_an_answer_of_the_gateway_is_unknown() {
        for (status, body) in [
            (200, ""),
            (204, ""),
            (200, "<html>blocked</html>"),
            (200, r#"{"success":true"#),
            (200, r#"{"success":"true"}"#),
            (200, r#"{"success":true,"success":true}"#),
            (200, "[true]"),
            (200, "[false]"),
            (503, "[false]"),
            (200, "[]"),
            (200, "null"),
            (408, ""),
            (500, r#"{"success":false,"message":"internal"}"#),
            (502, "<html>"),
            (503, ""),
            (504, r#"{"success":true}"#),
            (100, ""),
            (999, ""),
        ] {
            assert!(matches!(verdict(status, body), Verdict::Unknown { .. }), "{status} {body}");
        }
        let mut cut = Answer::new(200, r#"{"success":true,"errors":[]}"#);
        cut.truncated = true;
        assert!(matches!(dialect().verdict(&cut, Private::default()), Verdict::Unknown { .. }));
        let not_utf8 = Answer::new(200, &b"{\"success\":true,\"message\":\"\xff\"}"[..]);
        assert!(matches!(dialect().verdict(&not_utf8, Private::default()), Verdict::Unknown { .. }));
    }

    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<Vec<u8>>(),
            r#"[{]?"success":(true|false|1|"x"),"(errors|message)":(\[\]|\[1\]|""|[{][}]|null)[}]?"#
                .prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn accepted_means_whole_success_and_no_panic_ever(status in any::<u16>(), body in bodies(), truncated: bool) {
            let mut answer = Answer::new(status, body.clone());
            answer.truncated = truncated;
            if let Verdict::Accepted { .. } = dialect().verdict(&answer, Private::default()) {
                prop_assert!((200..300).contains(&status) && !truncated);
                let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
                prop_assert!(value["success"] == serde_json::json!(true));
            }
        }
    }
}
