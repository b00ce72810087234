//! A gateway without its wire: what it would be sent, and what each of its answers would mean.
//!
//! Does no I/O and reads no clock, so that whatever a gateway may answer can be tried on it.

use std::slice;
use std::time::Duration;

use serde_json::Value;
use url::Url;

use crate::config::{self, HttpBody, Secret};
use crate::gateway::answer::Answer;
use crate::gateway::auth::Auth;
use crate::gateway::probe::{ProbeReport, Target};
use crate::gateway::quote::Private;
use crate::gateway::template::Template;
use crate::gateway::{BuildError, Deferral, Dialect, Prepared, ProbeFailure};
use crate::gateway::{http_template, interactsms_v1, interactsms_v2};
use crate::message::{Outgoing, Refusal};
use crate::verdict::{Joint, Verdict};

#[derive(Debug)]
pub struct Protocol {
    dialect: Box<dyn Dialect>,
    pub(super) auth: Option<Auth>,
    pub(super) probe: Target,
    /// What a gateway's text must not bring into a row or a log.
    secrets: Vec<Secret>,
}

impl Protocol {
    pub fn build(dialect: &config::Dialect) -> Result<Protocol, BuildError> {
        Ok(match dialect {
            config::Dialect::InteractsmsV2(cfg) => Protocol {
                dialect: Box::new(interactsms_v2::InteractsmsV2::build(cfg)?),
                probe: Target::sender_list(&cfg.api_url)?,
                auth: Some(Auth::build(cfg)?),
                secrets: vec![cfg.password.clone()],
            },
            config::Dialect::InteractsmsV1(cfg) => Protocol {
                dialect: Box::new(interactsms_v1::InteractsmsV1::build(cfg)?),
                probe: Target::root_of(&cfg.url)?,
                auth: None,
                secrets: vec![cfg.password.clone()],
            },
            config::Dialect::Http(cfg) => Protocol {
                dialect: Box::new(http_template::HttpTemplate::build(cfg)?),
                probe: Target::root_of(cfg.url.split('?').next().unwrap_or_default())?,
                auth: None,
                secrets: http_secrets(cfg),
            },
        })
    }

    /// Every address that is talked to.
    pub(super) fn urls(&self) -> Vec<&Url> {
        // Messages go to the host that the probe asks.
        std::iter::once(self.probe.url()).chain(self.auth.as_ref().map(Auth::url)).collect()
    }

    /// The request that carries this message.
    pub fn request(&self, message: &Outgoing, token: Option<&Secret>) -> Result<Prepared, Refusal> {
        self.request_together(slice::from_ref(message), token)
    }

    /// The request that carries all of these, which have one text and one sender.
    pub fn request_together(
        &self,
        messages: &[Outgoing],
        token: Option<&Secret>,
    ) -> Result<Prepared, Refusal> {
        self.dialect.request(messages, token)
    }

    /// What this answer means for this message, in words that may be written down.
    pub fn verdict(&self, answer: &Answer, message: &Outgoing) -> Verdict {
        self.dialect.verdict(
            answer,
            Private { secrets: &self.secrets, auth: self.auth.as_ref(), text: &message.text },
        )
    }

    /// What this answer means for messages that shared a request.
    pub fn joint_verdict(&self, answer: &Answer, messages: &[Outgoing]) -> Joint {
        let text = messages.first().map_or("", |message| &message.text);
        let private = Private { secrets: &self.secrets, auth: self.auth.as_ref(), text };
        self.dialect.joint_verdict(answer, messages, private)
    }

    /// What an answer to the log-in brings: a token and how long it serves. `None` where there is no log-in.
    pub fn log_in(&self, answer: &Answer) -> Option<Result<(Secret, Duration), Deferral>> {
        let auth = self.auth.as_ref()?;
        Some(auth.read(answer).map_err(|failure| failure.deferral))
    }

    /// What the answer to a question for the senders says. `None` where the gateway has no such list.
    pub fn senders(&self, answer: &Answer) -> Option<Result<ProbeReport, ProbeFailure>> {
        self.probe.senders(answer)
    }
}

/// Values that no placeholder fills in are taken for secrets if they are long enough not to be ordinary words.
fn http_secrets(cfg: &config::HttpTemplate) -> Vec<Secret> {
    const LEAST_CHARS: usize = 6;
    let query = cfg.url.split_once('?').map_or("", |(_, query)| query);
    let mut templates: Vec<String> =
        form_urlencoded::parse(query.as_bytes()).map(|(_, value)| value.into_owned()).collect();
    match &cfg.body {
        HttpBody::None => {}
        HttpBody::Form(fields) => templates.extend(fields.iter().map(|(_, value)| value.expose().to_owned())),
        HttpBody::Json(value) => collect_texts(value, &mut templates),
    }
    let fixed = templates.iter().filter_map(|text| Template::parse(text).ok()?.literal().map(str::to_owned));
    // `Bearer …`: the scheme's name is no part of the secret.
    let headers = cfg.headers.iter().flat_map(|(_, value)| value.expose().split_ascii_whitespace());
    let values = fixed.chain(headers.map(str::to_owned)).filter(|text| text.chars().count() >= LEAST_CHARS);
    let passwords = cfg.password.iter().chain(cfg.basic_auth.iter().map(|(_, password)| password));
    values.map(Secret::new).chain(passwords.cloned()).collect()
}

fn collect_texts(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect_texts(item, texts)),
        Value::Object(fields) => fields.values().for_each(|item| collect_texts(item, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Protocol;
    use crate::config::{self, HttpBody, HttpMethod, Secret};
    use crate::gateway::{Answer, outgoing_for_tests};
    use crate::verdict::Verdict;

    #[test]
    fn no_credential_comes_back_in_a_refusal_wherever_it_was_sent() {
        let protocol = Protocol::build(&config::Dialect::Http(Box::new(config::HttpTemplate {
            method: HttpMethod::Post,
            url: "https://gw.example.test/s?key=url%20secret&t={text}".to_owned(),
            headers: vec![("Authorization".to_owned(), Secret::new("Bearer header-secret"))],
            body: HttpBody::Json(
                json!({"to": ["{recipient}"], "auth": {"key": "json{{secret}}"}, "pw": "{text}p{{w"}),
            ),
            basic_auth: None,
            rules: Vec::new(),
            message_id: None,
            error: Some(config::Extract::Body),
            plus: false,
            password: Some(Secret::new("p{w")),
        })))
        .unwrap();
        for secret in ["url secret", "url+secret", "header-secret", "json{secret}", "p{w"] {
            let answer = Answer::new(400, format!("bad key {secret}, go away"));
            let Verdict::Rejected { reason, .. } = protocol.verdict(&answer, &outgoing_for_tests("hi"))
            else {
                panic!("400 refuses the message");
            };
            assert!(reason.ends_with("\"bad key [left out]\""), "{secret}: {reason}");
        }
    }
}
