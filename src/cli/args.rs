//! The command line as a person types it. Meaning is given to it in the file of each command.
//!
//! No option takes a secret: command lines are visible to everybody on the machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser, Subcommand, ValueEnum};

use crate::cli::errors::{Code, Failure};
use crate::config::{self, Database};
use crate::message::{Lane, MessageId, Status};

/// Sends the rows of a PostgreSQL outbox table as SMS, and writes back what became of them.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
pub struct Args {
    /// Configuration file.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "OUTBOXD_CONFIG",
        default_value = "/etc/outboxd/outboxd.toml"
    )]
    pub config: PathBuf,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon.
    ///
    /// systemd does this. By hand, use it in a terminal to watch a first test; Ctrl-C stops it cleanly.
    Run,

    /// Create or update the tables and functions in the database.
    ///
    /// Use it once after installing and after each upgrade, as the role that owns the schemas. The daemon itself never
    /// changes the schema.
    Migrate(Migrate),

    /// Find out what is wrong: configuration, database, network, gateway log-in.
    ///
    /// Use it after each change of the configuration, and first of all when messages do not go out. Sends no SMS.
    Check(Check),

    /// Print what a firewall must let out: the database, the gateways or their proxies, the name servers.
    ///
    /// Use it to ask the network team for openings, and to make rules for this host. Looks names up, connects nowhere.
    Egress(Egress),

    /// Show the queue, the gateways and what needs a person.
    ///
    /// Works from the database, so also while the daemon is down. Exits with 1 when something needs a person.
    Status(StatusArgs),

    /// Queue one message and wait for what becomes of it.
    ///
    /// Use it to test the whole way to a handset. The message is charged like any other.
    Send(Send),

    /// Show what a text or template becomes, without sending: number, alphabet, segments.
    ///
    /// Use it before a template goes live, to see what it will cost.
    Render(Render),

    /// Queue messages again that failed, expired, were held or not delivered.
    ///
    /// Use it after the cause was removed. Messages that may have been sent (unknown) need --force.
    Retry(Retry),

    /// Cancel messages that are still queued.
    ///
    /// A message that has left cannot be called back.
    Cancel(Cancel),

    /// Say what became of messages whose answer was lost.
    ///
    /// Use it when `status` shows unknown messages and you have found out, for example in the gateway's web pages,
    /// whether they were sent.
    Resolve(Resolve),

    /// Accept this database as the one to send from.
    ///
    /// Use it after a restore, a clone or a failover, when the daemon holds the queue because the database may have gone
    /// back in time. Dangerous on a copy of the production database: it would send the copy's messages.
    Adopt,

    /// Stop sending at once; everything stays queued.
    ///
    /// The emergency brake. Receipts are still taken. Holds until `resume`, across restarts.
    Hold(Hold),

    /// Go on after `hold`, or start a gateway that was stopped by an alarm.
    ///
    /// Without --gateway it also clears the alarms `request_refused`: run it when you have looked after those messages.
    Resume(Resume),

    /// List, add and remove people who want no messages; import and export them.
    ///
    /// Replies such as STOP do so by themselves, and applications with sms.opt_out(). Use it for lists from elsewhere.
    #[command(subcommand)]
    OptOut(OptOutCommand),

    /// Print configuration: the commented default, its JSON schema, or what the file means.
    #[command(subcommand)]
    Config(ConfigCommand),

    /// Print a completion script for a shell.
    ///
    /// The packages bring these. Without a package: outboxd completions bash > /etc/bash_completion.d/outboxd.
    Completions {
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
}

#[derive(Debug, clap::Args)]
pub struct Migrate {
    /// Print the SQL instead of running it, for a DBA to run with psql.
    #[arg(long)]
    pub print: bool,

    /// Connect with this string instead of the one in the file, as the role that owns the schemas.
    ///
    /// May not hold a password: use peer authentication, or the environment variable PGPASSWORD.
    #[arg(long, value_name = "CONNECTION")]
    pub database: Option<String>,
}

impl Migrate {
    /// The database named by `--database`. Not checked while parsing: clap would repeat the string, password included.
    pub fn named_database(&self, pgpassword: Option<&str>) -> Result<Option<Database>, Failure> {
        let Some(text) = &self.database else { return Ok(None) };
        let mut database = config::connection(text)
            .map_err(|fault| Failure::new(Code::Usage, fault.to_string()).hint(fault.hint))?;
        if database.inline_password {
            let failure =
                Failure::new(Code::Usage, "--database holds a password, which everybody here can see");
            return Err(failure.hint("change it, leave it out of the command, and set PGPASSWORD instead"));
        }
        if let Some(password) = pgpassword {
            database.connect.password(password);
        }
        Ok(Some(database))
    }
}

#[derive(Debug, clap::Args)]
pub struct Check {
    /// Print JSON, for monitoring.
    #[arg(long)]
    pub json: bool,

    /// Look at the configuration and its files only; connect nowhere.
    #[arg(long)]
    pub offline: bool,
}

#[derive(Debug, clap::Args)]
pub struct Egress {
    /// For whom it is.
    #[arg(long, value_enum, default_value_t = EgressFormat::Table)]
    pub format: EgressFormat,

    /// With --format nftables: name or number of the user that the daemon runs as.
    #[arg(long, default_value = "outboxd", value_name = "USER", value_parser = user)]
    pub user: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EgressFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// Rules for `nft -f`: what the daemon's user may send.
    Nftables,
    /// A drop-in for the unit, with IPAddressDeny and IPAddressAllow.
    Systemd,
}

/// What is written into rules must be a user and nothing else.
fn user(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(plain) && !text.starts_with('-') {
        Ok(text.to_owned())
    } else {
        Err("not the name or the number of a user".to_owned())
    }
}

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Print JSON, for monitoring.
    #[arg(long)]
    pub json: bool,
}

/// What a message says: a text, or a template with its parameters.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("content").required(true))]
pub struct Content {
    /// The text itself.
    #[arg(long, group = "content")]
    pub text: Option<String>,

    /// Name of a template in sms.template.
    #[arg(long, group = "content", value_name = "NAME")]
    pub template: Option<String>,

    /// Language of the template, such as en or en-IE.
    #[arg(long, requires = "template", conflicts_with = "text")]
    pub language: Option<String>,

    /// Parameter of the template; may stand several times.
    #[arg(long = "param", value_name = "NAME=VALUE", requires = "template", conflicts_with = "text", value_parser = name_and_value)]
    pub params: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
pub struct Send {
    /// Number of the recipient.
    #[arg(long, value_name = "NUMBER")]
    pub to: String,

    #[command(flatten)]
    pub content: Content,

    /// Sender ID, instead of the configured one.
    #[arg(long)]
    pub sender: Option<String>,

    /// Gateway, instead of the one that routing finds.
    #[arg(long, value_name = "NAME")]
    pub gateway: Option<String>,

    /// urgent, normal or bulk.
    #[arg(long, default_value = "normal", value_parser = lane)]
    pub lane: Lane,

    /// Only queue it, and print its id.
    #[arg(long)]
    pub no_wait: bool,

    /// Longest wait for a final state.
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, clap::Args)]
pub struct Render {
    #[command(flatten)]
    pub content: Content,

    /// Number of a recipient, to see how it is read and which gateway it goes to.
    #[arg(long, value_name = "NUMBER")]
    pub to: Option<String>,

    /// Sender ID, instead of the configured one.
    #[arg(long)]
    pub sender: Option<String>,

    /// urgent, normal or bulk: routing may depend on it.
    #[arg(long, default_value = "normal", value_parser = lane)]
    pub lane: Lane,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub struct Retry {
    /// Ids of messages.
    #[arg(value_name = "ID", group = "which", value_parser = message_id)]
    pub ids: Vec<MessageId>,

    /// All messages in this state; unknown only with --force.
    #[arg(long, group = "which", requires = "bound", value_name = "STATE")]
    pub status: Option<Retryable>,

    #[command(flatten)]
    pub bound: Bound,

    /// Also messages that may have been sent. Dangerous: people may get them twice.
    #[arg(long)]
    pub force: bool,
}

/// What keeps a command for all messages in a state from reaching back for years.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("bound").multiple(true))]
pub struct Bound {
    /// With --status: only messages queued within this time, such as 2h.
    #[arg(long, value_name = "DURATION", requires = "status", group = "bound", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,

    /// With --status: only messages with this error_code, such as `failover_uncertain`.
    #[arg(long, value_name = "CODE", requires = "status", group = "bound")]
    pub code: Option<String>,
}

/// States from which a message can be queued again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Retryable {
    Failed,
    Undelivered,
    Expired,
    /// Kept back for a person, for example because it had waited too long.
    Held,
    /// May have been sent.
    Unknown,
}

impl Retryable {
    pub const fn as_str(self) -> &'static str {
        match self {
            Retryable::Failed => "failed",
            Retryable::Undelivered => "undelivered",
            Retryable::Expired => "expired",
            Retryable::Held => "held",
            Retryable::Unknown => "unknown",
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub struct Cancel {
    /// Ids of messages.
    #[arg(value_name = "ID", group = "which", value_parser = message_id)]
    pub ids: Vec<MessageId>,

    /// All messages in this state.
    #[arg(long, group = "which", requires = "bound", value_name = "STATE")]
    pub status: Option<Cancellable>,

    #[command(flatten)]
    pub bound: Bound,
}

/// States from which all messages can be cancelled at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cancellable {
    /// Kept back for a person.
    Held,
}

impl Cancellable {
    pub const fn as_str(self) -> &'static str {
        match self {
            Cancellable::Held => "held",
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub struct Resolve {
    /// Ids of unknown messages.
    #[arg(value_name = "ID", group = "which", value_parser = message_id)]
    pub ids: Vec<MessageId>,

    /// Every unknown message.
    #[arg(long, group = "which")]
    pub all: bool,

    /// What became of them. Dangerous: `queued` sends them again.
    #[arg(long = "as", value_name = "STATE")]
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Outcome {
    /// The gateway took it.
    Accepted,
    /// It reached the handset.
    Delivered,
    /// It was not sent and will not be.
    Failed,
    /// It was not sent; send it again.
    Queued,
}

impl Outcome {
    pub const fn status(self) -> Status {
        match self {
            Outcome::Accepted => Status::Accepted,
            Outcome::Delivered => Status::Delivered,
            Outcome::Failed => Status::Failed,
            Outcome::Queued => Status::Queued,
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct Hold {
    /// Why, for those who find the queue held.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Resume {
    /// Start this stopped gateway, instead of the held queue.
    #[arg(long, value_name = "NAME")]
    pub gateway: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum OptOutCommand {
    /// These numbers get no more messages.
    Add {
        /// Numbers, as in the outbox.
        #[arg(value_name = "NUMBER", required = true)]
        numbers: Vec<String>,

        /// A remark, for those who find it.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },

    /// These numbers get messages again, whoever opted them out.
    ///
    /// Dangerous for people who wrote STOP: have their consent.
    Remove {
        /// Numbers, as in the outbox.
        #[arg(value_name = "NUMBER", required = true)]
        numbers: Vec<String>,
    },

    /// Print those who opted out, and since when.
    List,

    /// Add the numbers of a CSV file that comes on standard input.
    ///
    /// The first column is the number, unless a first line names the columns: msisdn (or number), app, since, reason.
    Import,

    /// Print them as CSV, in the form that `import` reads.
    Export,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum ConfigCommand {
    /// Print the shipped configuration file, every option explained.
    Default,
    /// Print the JSON schema of the file, for editors.
    Schema,
    /// Print what the file and the defaults come to, without secrets.
    Show,
}

/// Shells whose completion the packages bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

fn message_id(text: &str) -> Result<MessageId, String> {
    match text.parse::<i64>() {
        Ok(id) if id > 0 => Ok(MessageId(id)),
        _ => Err("an id is a positive whole number, as in the column `id`".to_owned()),
    }
}

fn lane(text: &str) -> Result<Lane, String> {
    Lane::parse(text).ok_or_else(|| "one of urgent, normal, bulk".to_owned())
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a parameter is written NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Args, Command, Migrate};

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("outboxd").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_retry_names_ids_or_a_state_with_a_time_but_not_both() {
        assert!(parse("retry 1 2").is_ok());
        assert!(parse("retry --status failed --since 2h").is_ok());
        assert!(parse("retry --status failed").is_err(), "would retry what failed years ago");
        assert!(parse("retry 1 --status failed --since 2h").is_err());
        assert!(parse("retry").is_err());
        assert!(parse("retry --status delivered --since 2h").is_err());
    }

    #[test]
    fn a_message_has_a_text_or_a_template() {
        assert!(parse("send --to 1 --text x").is_ok());
        assert!(parse("send --to 1 --template t --param a=b --param c=d").is_ok());
        assert!(parse("send --to 1").is_err());
        assert!(parse("send --to 1 --text x --template t").is_err());
        assert!(parse("send --to 1 --text x --param a=b").is_err());
    }

    #[test]
    fn what_is_unknown_is_resolved_as_something() {
        assert!(parse("resolve --all --as accepted").is_ok());
        assert!(parse("resolve 7").is_err());
        assert!(parse("resolve --as failed").is_err());
    }

    #[test]
    fn a_password_on_the_command_line_is_refused_without_repeating_it() {
        let database = |text: &str| {
            let migrate = Migrate { print: false, database: Some(text.to_owned()) };
            migrate.named_database(Some("from-env"))
        };
        let refusal = database("postgresql://u:hunter2@localhost/x").unwrap_err();
        assert!(!format!("{refusal:?}").contains("hunter2"), "{refusal:?}");
        let accepted = database("postgresql://u@localhost/x").unwrap().unwrap();
        assert_eq!(accepted.connect.get_password(), Some(b"from-env".as_slice()));
    }

    #[test]
    fn the_configuration_path_may_stand_behind_the_command() {
        let args = parse("check --config /x.toml").unwrap();
        assert_eq!(args.config.to_str(), Some("/x.toml"));
        assert!(matches!(args.command, Command::Check(_)));
    }
}
