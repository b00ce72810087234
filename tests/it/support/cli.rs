//! One command of the real `outboxd`, run to its end with a configuration of the test's own.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// What the environment variable holds that configurations name as `password_env`.
pub(crate) const PASSWORD: &str = "correct-horse";

/// A configuration to run commands with.
#[derive(Debug)]
pub(crate) struct Cli {
    directory: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Cli {
    pub(crate) fn new(config: &str) -> Cli {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("outboxd.toml");
        std::fs::write(&file, config).unwrap();
        // It may hold passwords, and a file that everybody may read is refused then.
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        Cli { directory }
    }

    /// Where the configuration lies.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A database and a gateway at an address where nobody is.
    pub(crate) fn with_database(url: &str) -> Cli {
        Cli::new(&config(url, "", &v1_gateway("main", "http://127.0.0.1:9/send")))
    }

    /// Leaves this test's runtime free, so that a peer in the same test can answer the command.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, |_| ()).await
    }

    /// The same with another environment.
    pub(crate) async fn run_with(&self, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
        command
            .arg("--config")
            .arg(self.directory.path().join("outboxd.toml"))
            .args(arguments)
            .env("GATEWAY_PASSWORD", PASSWORD)
            .env("CALLBACK_PATH", "/callback/0123456789abcdef")
            .env_remove("PGPASSWORD")
            .stdin(Stdio::null());
        change(&mut command);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let ended = Ended {
            code: output.status.code().expect("it ended by itself"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!ended.stdout.contains(PASSWORD) && !ended.stderr.contains(PASSWORD), "{ended:?}");
        ended
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Ended {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// `text`: lines of `[text]`; `rest`: further sections.
pub(crate) fn config(database: &str, text: &str, rest: &str) -> String {
    format!("[database]\nurl = \"{database}\"\ntimeout = \"5s\"\n\n[text]\n{text}\n\n{rest}\n")
}

pub(crate) fn v1_gateway(name: &str, url: &str) -> String {
    format!(
        "[gateway.{name}]\ndialect = \"interactsms-v1\"\nurl = \"{url}\"\nusername = \"user\"\n\
         password_env = \"GATEWAY_PASSWORD\"\napi_id = \"1\"\n"
    )
}

pub(crate) fn v2_gateway(name: &str, base: &str) -> String {
    format!(
        "[gateway.{name}]\ndialect = \"interactsms-v2\"\napi_url = \"{base}\"\ntoken_url = \"{base}/token\"\n\
         username = \"user\"\npassword_env = \"GATEWAY_PASSWORD\"\n"
    )
}
