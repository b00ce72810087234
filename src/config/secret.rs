//! Where secrets come from: a file, a systemd credential, the environment, or the configuration itself where nobody
//! else can read it.
//!
//! Must not put a value, or a part of one, into a fault.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::Secret;
use super::diagnostic::Diagnostic;
use super::raw::{At, Text};
use super::reader::{Reader, Reported};

/// Permission bits that let others than owner and group in.
pub(super) const OTHERS: u32 = 0o007;

/// Text of a file and its permission bits.
pub type ReadFile = dyn Fn(&Path) -> io::Result<(String, u32)>;
/// Value of an environment variable.
pub type ReadEnv = dyn Fn(&str) -> Option<String>;

/// What the machine around a configuration file holds. Tests bring their own.
pub struct Surroundings {
    /// Permission bits of the configuration file; `None` where there are none.
    pub mode: Option<u32>,
    /// Relative paths start here: the directory of the configuration file.
    pub directory: PathBuf,
    pub read: Box<ReadFile>,
    pub env: Box<ReadEnv>,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// What keeps a file with a private key from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyFault {
    /// With its permission bits.
    ReadByOthers(u32),
    NotText,
}

impl Surroundings {
    /// A file that is missing, or closed to us, is told by whoever needs it.
    pub(super) fn key_fault(&self, path: &Path) -> Option<KeyFault> {
        match (self.read)(path) {
            Ok((_, mode)) if mode & OTHERS != 0 => Some(KeyFault::ReadByOthers(mode & 0o7777)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Some(KeyFault::NotText),
            Ok(_) | Err(_) => None,
        }
    }

    pub(super) fn path(&self, text: &str) -> PathBuf {
        self.directory.join(text)
    }
}

/// The four ways to give one secret.
#[derive(Debug, Clone, Copy)]
pub(super) struct SecretKeys<'r> {
    /// For example `password`, from which the other keys are named.
    pub(super) name: &'static str,
    pub(super) inline: &'r Text,
    pub(super) file: &'r Text,
    pub(super) credential: &'r Text,
    pub(super) env: &'r Text,
}

impl SecretKeys<'_> {
    fn names(&self) -> [String; 4] {
        let name = self.name;
        [name.to_owned(), format!("{name}_file"), format!("{name}_credential"), format!("{name}_env")]
    }
}

impl Reader<'_> {
    /// The secret, or `None` when no key gives one.
    pub(super) fn secret(
        &mut self,
        section: &[&str],
        keys: SecretKeys<'_>,
    ) -> Result<Option<Secret>, Reported> {
        let names = keys.names();
        for name in &names {
            if self.was_cut(section, name) {
                return Err(Reported);
            }
        }
        let given: Vec<(usize, &At<String>)> = [keys.inline, keys.file, keys.credential, keys.env]
            .into_iter()
            .enumerate()
            .filter_map(|(way, value)| Some((way, value.as_ref()?)))
            .collect();
        let (way, at) = match given.as_slice() {
            [] => return Ok(None),
            [(way, at)] => (*way, *at),
            [.., (way, at)] => {
                let others: Vec<_> = given.iter().map(|(way, _)| format!("`{}`", names[*way])).collect();
                return Err(self.report(
                    Diagnostic::new(
                        Some(at.span.clone()),
                        format!("the {} is given twice", keys.name.replace('_', " ")),
                    )
                    .label(format!("`{}` is one too many", names[*way]))
                    .help(format!("keep one of {}", others.join(", "))),
                ));
            }
        };
        let value = match way {
            0 => {
                self.inline_secret(keys.name, at)?;
                at.value.clone()
            }
            1 => self.secret_file(&names[1], at, &self.surroundings().path(&at.value))?,
            2 => self.credential(&names[2], at)?,
            _ => self.variable(&names[3], at)?,
        };
        let value = value.trim_end_matches(['\n', '\r']);
        if value.is_empty() {
            return Err(self.report(
                Diagnostic::new(Some(at.span.clone()), format!("`{}` leads to an empty secret", names[way]))
                    .label("nothing there"),
            ));
        }
        Ok(Some(Secret::new(value)))
    }

    /// A secret may stand in the configuration only if others cannot read it.
    pub(super) fn inline_secret(&mut self, name: &str, at: &At<String>) -> Result<(), Reported> {
        match self.surroundings().mode {
            Some(mode) if mode & OTHERS != 0 => Err(self.report(
                Diagnostic::new(
                    Some(at.span.clone()),
                    format!("`{name}` holds a secret, and everybody on this machine can read this file"),
                )
                .label(format!("the file's mode is {:04o}", mode & 0o7777))
                .help(format!(
                    "chmod 640 the file and give it to the daemon's group, or use the keys `{name}_file` or \
                     `{name}_credential`"
                )),
            )),
            _ => Ok(()),
        }
    }

    fn secret_file(&mut self, name: &str, at: &At<String>, path: &Path) -> Result<String, Reported> {
        let shown = path.display();
        match (self.surroundings().read)(path) {
            Ok((_, mode)) if mode & OTHERS != 0 => Err(self.report(
                Diagnostic::new(Some(at.span.clone()), format!("everybody on this machine can read {shown}"))
                    .label(format!("the file's mode is {:04o}", mode & 0o7777))
                    .help(format!(
                        "chmod 640 {shown}, and change the secret if others had a chance to read it"
                    )),
            )),
            Ok((text, _)) => Ok(text),
            Err(error) => Err(self.report(
                Diagnostic::new(Some(at.span.clone()), format!("could not read {shown}"))
                    .label(io_reason(&error))
                    .help(format!("`{name}` names a file that the daemon's user can read")),
            )),
        }
    }

    /// The file of a private key, named here: a secret like others.
    pub(super) fn private_key(&mut self, at: &At<String>) -> Result<PathBuf, Reported> {
        let path = self.surroundings().path(&at.value);
        let shown = path.display();
        let (what, label, help) = match self.surroundings().key_fault(&path) {
            None => return Ok(path),
            Some(KeyFault::ReadByOthers(mode)) => (
                format!("everybody on this machine can read the private key in {shown}"),
                format!("the file's mode is {mode:04o}"),
                format!("chmod 640 {shown}, and have another key made if others had a chance to read it"),
            ),
            Some(KeyFault::NotText) => (
                format!("{shown} is no PEM file"),
                "holds bytes that are no text".to_owned(),
                "a PEM file holds blocks between lines of -----BEGIN and -----END, and nothing else that matters"
                    .to_owned(),
            ),
        };
        Err(self.report(Diagnostic::new(Some(at.span.clone()), what).label(label).help(help)))
    }

    fn credential(&mut self, name: &str, at: &At<String>) -> Result<String, Reported> {
        let plain = !at.value.is_empty() && !at.value.contains('/') && at.value != "..";
        let Some(directory) = (self.surroundings().env)("CREDENTIALS_DIRECTORY") else {
            return Err(self.report(
                Diagnostic::new(Some(at.span.clone()), "no systemd credentials were passed to this process")
                    .label("CREDENTIALS_DIRECTORY is not set")
                    .help(format!(
                        "add LoadCredential={}:/path/to/file to the unit; from a shell, use `{}` instead",
                        at.value,
                        name.replace("_credential", "_file"),
                    )),
            ));
        };
        if !plain {
            return Err(self.report(
                Diagnostic::new(Some(at.span.clone()), format!("`{name}` is a name, not a path"))
                    .label("as in LoadCredential=NAME:/path"),
            ));
        }
        // systemd keeps this directory to the service's user, whatever the file's bits say.
        let path = Path::new(&directory).join(&at.value);
        match (self.surroundings().read)(&path) {
            Ok((text, _)) => Ok(text),
            Err(error) => Err(self.report(
                Diagnostic::new(
                    Some(at.span.clone()),
                    format!("systemd passed no credential `{}` that can be read", at.value),
                )
                .label(io_reason(&error))
                .help(format!("add LoadCredential={}:/path/to/file to the unit", at.value)),
            )),
        }
    }

    fn variable(&mut self, name: &str, at: &At<String>) -> Result<String, Reported> {
        match (self.surroundings().env)(&at.value) {
            Some(value) => Ok(value),
            None => Err(self.report(
                Diagnostic::new(Some(at.span.clone()), "this environment variable is not set")
                    .label("not set, or not UTF-8")
                    .help(format!("`{name}` is the name of a variable, not the secret itself")),
            )),
        }
    }
}

/// Without the operating system's error number, which helps nobody.
pub(super) fn io_reason(error: &io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
