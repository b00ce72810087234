//! `outboxd opt-out`: the list of people who want no messages, for people who keep such a list elsewhere as well.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use jiff::Timestamp;

use crate::cli::args::OptOutCommand;
use crate::cli::database::Db;
use crate::cli::errors::{Code, Failure};
use crate::cli::{block_on, counted, print};
use crate::config::{self, Text};
use crate::message::mask_msisdn;
use crate::store::inbox::OptedOut;
use crate::text::msisdn::{self, NumberPlan};

/// Numbers in one statement.
const BATCH: usize = 1000;
/// Lines of a file that are complained about one by one.
const NAMED: usize = 20;
/// Names of the columns that are exported, in their order.
const HEADER: &str = "msisdn,app,since,source,reason";

pub(super) fn run(command: &OptOutCommand, path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path)?;
    block_on(async {
        let db = Db::open(&config.database)?;
        match command {
            OptOutCommand::Add { numbers, reason } => {
                let mut list = List::new(&config.text);
                for (at, number) in numbers.iter().enumerate() {
                    list.take(&format!("number {}", at + 1), number, "operator", |entry| {
                        entry.reason.clone_from(reason);
                        Ok(())
                    });
                }
                add(&db, list).await
            }
            OptOutCommand::Remove { numbers } => remove(&db, &config.text, numbers).await,
            OptOutCommand::List => list(&db, shown).await,
            OptOutCommand::Import => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("could not read standard input")?;
                add(&db, read_csv(&text, &config.text)?).await
            }
            OptOutCommand::Export => {
                print(&format!("{HEADER}\n"))?;
                list(&db, csv_line).await
            }
        }
    })
}

/// Entries that could be read, one for each number and app, and complaints about the others.
struct List<'a> {
    plan: NumberPlan<'a>,
    entries: BTreeMap<(String, String), OptedOut>,
    complaints: Vec<String>,
}

impl<'a> List<'a> {
    fn new(text: &'a Text) -> List<'a> {
        let plan = NumberPlan { country: text.default_country.as_deref(), trunk: &text.trunk_prefix };
        List { plan, entries: BTreeMap::new(), complaints: Vec::new() }
    }

    fn take(
        &mut self,
        place: &str,
        number: &str,
        source: &str,
        fill: impl FnOnce(&mut OptedOut) -> Result<(), String>,
    ) {
        let read =
            msisdn::normalise(number, self.plan).map_err(|refusal| refusal.reason).and_then(|msisdn| {
                let mut entry = OptedOut {
                    msisdn,
                    app: String::new(),
                    since: None,
                    source: source.to_owned(),
                    reason: None,
                };
                fill(&mut entry)?;
                Ok(entry)
            });
        match read {
            Ok(entry) => {
                self.entries.insert((entry.msisdn.clone(), entry.app.clone()), entry);
            }
            Err(reason) => self.complaints.push(format!("{place}: {reason}")),
        }
    }
}

async fn add(db: &Db<'_>, list: List<'_>) -> anyhow::Result<ExitCode> {
    let entries: Vec<OptedOut> = list.entries.into_values().collect();
    let mut new = 0;
    for batch in entries.chunks(BATCH) {
        new += db.ask(db.store.add_opt_outs(batch)).await?;
    }
    let known = entries.len() - new;
    let mut text = format!("{} opted out", counted(new, "number"));
    if known > 0 {
        let _ = write!(text, "; {known} were before");
    }
    text.push('\n');
    for complaint in list.complaints.iter().take(NAMED) {
        let _ = writeln!(text, "not read: {complaint}");
    }
    if list.complaints.len() > NAMED {
        let _ = writeln!(text, "not read: {} more", list.complaints.len() - NAMED);
    }
    print(&text)?;
    Ok(if list.complaints.is_empty() { ExitCode::SUCCESS } else { Code::Failed.into() })
}

async fn remove(db: &Db<'_>, text: &Text, numbers: &[String]) -> anyhow::Result<ExitCode> {
    let plan = NumberPlan { country: text.default_country.as_deref(), trunk: &text.trunk_prefix };
    let mut wanted = Vec::new();
    for number in numbers {
        let read = msisdn::normalise(number, plan)
            .map_err(|refusal| Failure::new(Code::Usage, refusal.reason).hint("nothing was changed"))?;
        wanted.push(read);
    }
    let removed = db.ask(db.store.remove_opt_outs(&wanted)).await?;
    let mut page = format!("{} opted in again\n", counted(removed.len(), "opt-out"));
    let mut code = ExitCode::SUCCESS;
    for number in wanted.iter().filter(|number| !removed.contains(number)) {
        let _ = writeln!(page, "{} had not opted out", mask_msisdn(number));
        code = Code::Failed.into();
    }
    print(&page)?;
    Ok(code)
}

async fn list(db: &Db<'_>, line: fn(&OptedOut) -> String) -> anyhow::Result<ExitCode> {
    let mut after = (String::new(), String::new());
    loop {
        let page = db.ask(db.store.opt_outs((&after.0, &after.1))).await?;
        let Some(last) = page.last() else { return Ok(ExitCode::SUCCESS) };
        after = (last.msisdn.clone(), last.app.clone());
        print(&page.iter().map(line).collect::<String>())?;
    }
}

fn since(entry: &OptedOut) -> String {
    entry.since.map(|at| at.to_string()).unwrap_or_default()
}

fn shown(entry: &OptedOut) -> String {
    let app = if entry.app.is_empty() { "everybody" } else { &entry.app };
    let reason = entry.reason.as_deref().unwrap_or_default();
    format!("{:<15} since {}, from {app}, by {} {reason}\n", entry.msisdn, since(entry), entry.source)
}

fn csv_line(entry: &OptedOut) -> String {
    let reason = entry.reason.as_deref().unwrap_or_default();
    let fields = [&entry.msisdn, &entry.app, &since(entry), &entry.source, reason].map(quoted);
    format!("{}\n", fields.join(","))
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) || field.trim() != field {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

fn read_csv<'a>(text: &str, settings: &'a Text) -> anyhow::Result<List<'a>> {
    let records = records(text.trim_start_matches('\u{feff}')).ok_or_else(|| {
        Failure::new(Code::Usage, "a quotation mark in the CSV is not closed").hint("nothing was changed")
    })?;
    let mut columns: Vec<String> = vec!["msisdn".to_owned()];
    let mut list = List::new(settings);
    for (nth, (line, record)) in records.iter().enumerate() {
        let names: Vec<String> = record.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
        if nth == 0 && names.iter().any(|name| matches!(name.as_str(), "msisdn" | "number")) {
            columns = names;
            continue;
        }
        let field = |wanted: &str| {
            let at = columns.iter().position(|name| name == wanted)?;
            record.get(at).map(|value| value.trim()).filter(|value| !value.is_empty())
        };
        let number = field("msisdn").or_else(|| field("number")).unwrap_or_default();
        list.take(&format!("line {line}"), number, "import", |entry| {
            entry.app = field("app").unwrap_or_default().to_owned();
            entry.reason = field("reason").map(str::to_owned);
            if let Some(time) = field("since") {
                let read = time.parse::<Timestamp>().map_err(|_| {
                    "its time is not written as 2026-11-22T10:00:00Z, or has no zone".to_owned()
                })?;
                entry.since = Some(read);
            }
            Ok(())
        });
    }
    Ok(list)
}

/// Records of a CSV file, each with the number of its first line; blank lines are none. `None`: a quotation mark is not
/// closed.
fn records(text: &str) -> Option<Vec<(usize, Vec<String>)>> {
    let mut records = Vec::new();
    let (mut record, mut field) = (Vec::new(), String::new());
    let (mut line, mut begun) = (1, 1);
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.trim().is_empty() => {
                field.clear();
                quoted = true;
            }
            ',' | ';' if !quoted => record.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                line += 1;
                let done = std::mem::take(&mut record);
                if done.iter().any(|field| !field.trim().is_empty()) {
                    records.push((begun, done));
                }
                begun = line;
            }
            _ => {
                line += usize::from(c == '\n');
                field.push(c);
            }
        }
    }
    record.push(field);
    if record.iter().any(|field| !field.trim().is_empty()) {
        records.push((begun, record));
    }
    (!quoted).then_some(records)
}

#[cfg(test)]
mod tests {
    use super::{csv_line, read_csv, records};
    use crate::config::Text;

    fn settings() -> Text {
        Text {
            default_country: Some("353".to_owned()),
            trunk_prefix: "0".to_owned(),
            default_sender: None,
            max_segments: 1,
            transliterate: false,
        }
    }

    #[test]
    fn a_plain_list_of_numbers_is_read_and_a_bad_line_named() {
        let settings = settings();
        let list =
            read_csv("0871234567\r\n\r\n+44 7911 123456,x\nnonsense\n353871234567\n", &settings).unwrap();
        let numbers: Vec<&str> = list.entries.keys().map(|(number, _)| number.as_str()).collect();
        assert_eq!(numbers, ["353871234567", "447911123456"]);
        assert_eq!(list.complaints.len(), 1);
        assert!(list.complaints[0].starts_with("line 4: "), "{:?}", list.complaints);
    }

    #[test]
    fn what_is_exported_is_read_again() {
        let settings = settings();
        let text = "Number;since;reason;app\n0871234567;2026-11-22T10:00:00Z;\"asked, by \"\"phone\"\"\nand again\";shop\n0871234568;yesterday;;\n";
        let list = read_csv(text, &settings).unwrap();
        assert!(list.complaints[0].starts_with("line 4: "), "{:?}", list.complaints);
        let lines: String = list.entries.values().map(csv_line).collect();
        assert_eq!(
            lines,
            "353871234567,shop,2026-11-22T10:00:00Z,import,\"asked, by \"\"phone\"\"\nand again\"\n"
        );
        let again = read_csv(&format!("\u{feff}{}\n{lines}", super::HEADER), &settings).unwrap();
        assert_eq!(again.entries.values().map(csv_line).collect::<String>(), lines);
    }

    #[test]
    fn a_quotation_mark_that_is_not_closed_is_no_list() {
        assert!(records("a,\"b\n").is_none());
        assert_eq!(records("\n \n").map(|found| found.len()), Some(0));
    }
}
