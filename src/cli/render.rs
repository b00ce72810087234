//! `outboxd render`: what a text or template becomes, by the same code that sends, without sending.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::args::{Content, Render};
use crate::cli::database::Db;
use crate::cli::errors::Code;
use crate::cli::{block_on, print, print_json};
use crate::compose::{Composer, Templates};
use crate::config::{self, Config};
use crate::engine::route::Router;
use crate::message::{Encoding, MessageId, OutboxRow, Refusal, RowVersion};
use crate::text::segments;

/// Takes the place of a number where none was given; never shown.
const NOBODY: &str = "+15555550100";

#[derive(Debug, Serialize)]
struct Rendered {
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<String>,
    sender: String,
    text: String,
    encoding: Encoding,
    /// GSM septets or UTF-16 units.
    units: usize,
    segments: i16,
    /// Only with a number: routing depends on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
}

#[derive(Debug, Serialize)]
struct Refused {
    error_code: &'static str,
    error: String,
}

pub(super) fn run(args: Render, path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path)?;
    let templates = match &args.content.template {
        Some(_) => block_on(async {
            let db = Db::open(&config.database)?;
            db.ask(db.store.templates()).await
        })?,
        None => Vec::new(),
    };
    let json = args.json;
    match render(args, &config, Templates::new(templates)) {
        Ok(rendered) => {
            if json {
                print_json(&rendered)?;
            } else {
                print(&text(&rendered))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(Refusal { code, reason }) => {
            if json {
                print_json(&Refused { error_code: code, error: reason })?;
            } else {
                print(&format!("refused    {code}: {reason}\n"))?;
            }
            Ok(Code::Failed.into())
        }
    }
}

fn render(args: Render, config: &Config, templates: Templates) -> Result<Rendered, Refusal> {
    let numbered = args.to.is_some();
    let params = params(&args.content);
    let row = OutboxRow {
        id: MessageId(1),
        version: RowVersion(0),
        lane: args.lane,
        send_after_us: 0,
        row_made: crate::message::CreatedAt(0),
        attempts: 0,
        recipient: Some(args.to.unwrap_or_else(|| NOBODY.to_owned())),
        body: args.content.text,
        template: args.content.template,
        language: args.content.language,
        params,
        sender: args.sender,
        gateway: None,
    };
    let draft = Composer::new(config.text.clone(), templates).compose(&row)?;
    let names: Vec<&str> = config.gateways.keys().map(String::as_str).collect();
    let chosen =
        Router::new(&config.routing, names.iter().copied()).choose(None, &draft.recipient, row.lane)?;
    let gateway = names.get(chosen).filter(|_| numbered).map(|name| (*name).to_owned());
    Ok(Rendered {
        recipient: numbered.then_some(draft.recipient),
        sender: draft.sender,
        encoding: draft.encoding,
        units: segments::measure(&draft.text).units,
        segments: draft.segments,
        text: draft.text,
        gateway,
    })
}

/// The JSON object of `--param NAME=VALUE`, as an application would write it into the row.
pub(super) fn params(content: &Content) -> Option<String> {
    content.template.as_ref()?;
    let object: serde_json::Map<String, serde_json::Value> =
        content.params.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    Some(serde_json::Value::Object(object).to_string())
}

fn text(rendered: &Rendered) -> String {
    let mut page = String::new();
    let mut line = |head: &str, rest: &str| page.push_str(&format!("{head:<10} {rest}\n"));
    if let Some(recipient) = &rendered.recipient {
        line("number", recipient);
    }
    line("sender", &rendered.sender);
    if let Some(gateway) = &rendered.gateway {
        line("gateway", gateway);
    }
    let units = match rendered.encoding {
        Encoding::Gsm7 => "septets",
        Encoding::Ucs2 => "UTF-16 units",
    };
    line("encoding", rendered.encoding.as_str());
    line("segments", &format!("{} ({} {units})", rendered.segments, rendered.units));
    page.push('\n');
    page.push_str(&rendered.text);
    page.push('\n');
    page
}
