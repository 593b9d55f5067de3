//! The configuration: what may be set, where it is looked for, and what it must be.
//!
//! Sources, the stronger first: flags, environment, `.env` in the working folder, `vmshare.toml`, defaults. The TOML file
//! is the one named by `--config`, else by `VMSHARE_CONFIG`, else `./vmshare.toml`, else `/etc/vmshare/vmshare.toml`.
//! Relative paths start at the folder of the file that names them, else at the working folder.
//!
//! `Config::load` reads files and nothing else: it opens no socket, makes no folder, asks no environment of its own. It
//! either answers a whole `Config` or one sentence with file, line and mend; there is no half-valid configuration. What a
//! value must be stands in the tables (`top`, `profile`, `limits`); what values must be to each other stands in `checks`.
//! Secrets are `Secret`, whose Debug and Display hide them; no error quotes one.

mod checks;
pub mod cli_args;
mod env;
mod error;
mod file;
mod help;
mod limits;
mod profile;
mod subnet;
mod table;
#[cfg(test)]
mod tests;
mod top;
mod value;

pub use env::{PASSWORD, process_environment};
pub use error::ConfigError;
pub use limits::{Alerts, Limits};
pub use profile::{BadUid, ImageRule, Network, Persistence, Profile, Video, VncListen};
pub use subnet::Subnet;
pub use table::Setting;
pub use top::{AccelWish, LogFormat, Signup};
pub use value::Secret;

use profile::Written;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use table::{Entry, Given};
use top::Top;
use value::Raw;

/// Where the package puts the file.
const SYSTEM_FILE: &str = "/etc/vmshare/vmshare.toml";

/// Everything the program was told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The listener's address.
    pub host: IpAddr,
    /// The listener's port; 0 lets the system choose.
    pub port: u16,
    /// A plain port that only redirects to the listener.
    pub http_port: Option<u16>,
    /// How the listener speaks.
    pub tls: Tls,
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<Subnet>,
    /// A PostgreSQL URL (`postgresql://…`, any SQLAlchemy driver removed); none means a private cluster.
    pub database_url: Option<Secret>,
    /// The folder of everything the server keeps; absolute.
    pub base_dir: PathBuf,
    /// Keys share links and token hashes; none means the one kept in `base_dir`.
    pub secret_key: Option<Secret>,
    /// How long a session lasts.
    pub session_minutes: u32,
    /// Where `redirect` points, without a `/` at the end.
    pub novnc_base_url: String,
    /// Where QEMU's VNC listens in `vnc = "tcp"` profiles; always a loopback address if there is such a profile.
    pub vnc_host: IpAddr,
    /// The first VNC port of `vnc = "tcp"` profiles that name no range; already applied to them.
    pub vnc_base_port: Option<u16>,
    /// Another QEMU than the one on PATH.
    pub qemu_bin: Option<PathBuf>,
    /// Another qemu-img than the one on PATH.
    pub qemu_img_bin: Option<PathBuf>,
    /// The folder of PostgreSQL's server programs.
    pub postgres_bin_dir: Option<PathBuf>,
    /// Who may make an account.
    pub signup: Signup,
    /// The uids that QEMUs run as.
    pub vm_uids: RangeInclusive<u32>,
    /// The control group that VMs get theirs below; none means the server's own.
    pub vm_cgroup: Option<PathBuf>,
    /// Which accelerator QEMU is to use.
    pub accel: AccelWish,
    /// Whether the end of the server is the end of the VMs.
    pub stop_vms_on_exit: bool,
    /// Where alerts are sent.
    pub telegram: Telegram,
    /// When alerts are raised.
    pub alerts: Alerts,
    /// The profiles by name; `custom` is always there.
    pub profiles: BTreeMap<String, Profile>,
    /// The bounds of the program.
    pub limits: Limits,
    /// How the log looks.
    pub log: LogSettings,
    /// The files that were read, the strongest first.
    pub sources: Vec<PathBuf>,
}

/// How the listener speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Plain HTTP, for a proxy in front.
    Off,
    /// A certificate of its own, kept in `base_dir/tls`.
    SelfSigned,
    /// PEM files.
    Files {
        /// The certificate chain.
        cert: PathBuf,
        /// The private key.
        key: PathBuf,
    },
}

/// Where alerts are sent; without token and chat they are only logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telegram {
    /// The bot's token.
    pub bot_token: Option<Secret>,
    /// The chat's id or @name.
    pub chat_id: Option<String>,
    /// The API's address, without a `/` at the end.
    pub api_base: String,
}

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Text or JSON.
    pub format: LogFormat,
    /// The least important records that are written.
    pub level: log::LevelFilter,
}

/// What the command line says about the configuration. Flags never carry secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// Settings by their name in `vmshare.toml`; a later one wins.
    pub settings: Vec<(&'static str, String)>,
}

/// Every setting there is: the source of the help, of the example file's test and of the checks for unknown keys.
pub fn reference() -> impl Iterator<Item = &'static Setting> {
    [Top::TABLE, Written::TABLE, Alerts::TABLE, Limits::TABLE].into_iter().flatten()
}

/// The settings that also have a name in the environment.
fn top_settings() -> impl Iterator<Item = &'static Setting> {
    Top::TABLE.iter()
}

impl Config {
    /// Puts flags, environment, files and defaults together and checks them. The strings are warnings, one line each.
    pub fn load(
        flags: &Overrides,
        environment: impl Iterator<Item = (String, String)>,
        cwd: &Path,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        Self::load_with(flags, environment, cwd, Path::new(SYSTEM_FILE))
    }

    fn load_with(
        flags: &Overrides,
        environment: impl Iterator<Item = (String, String)>,
        cwd: &Path,
        system_file: &Path,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        // The weaker sources must be inserted first, but the stronger ones say where the weakest lies.
        let mut from_env = Given::new(cwd);
        let named_in_env = env::from_process(&mut from_env, environment)?;
        let mut from_dotenv = Given::new(cwd);
        let mut sources = Vec::new();
        let mut named_in_dotenv = None;
        let dotenv = cwd.join(".env");
        if let Some(text) = read_if_seen(&dotenv, ".env")? {
            named_in_dotenv = env::from_dotenv(&mut from_dotenv, &text, ".env", cwd)?;
            sources.push(dotenv);
        }
        let named = flags.config.clone().map(|file| ("--config", file));
        let named = named.or_else(|| named_in_env.map(|file| (env::CONFIG_FILE, PathBuf::from(file))));
        let named = named.or_else(|| named_in_dotenv.map(|file| (env::CONFIG_FILE, PathBuf::from(file))));
        let mut given = Given::new(cwd);
        if let Some(found) = find_toml(named, cwd, system_file)? {
            let folder = found.path.parent().unwrap_or(cwd);
            file::from_toml(&mut given, &found.text, &found.shown, folder)?;
            sources.push(found.path);
        }
        given.overlay(from_dotenv);
        given.overlay(from_env);
        for (name, value) in &flags.settings {
            let flag = format!("--{}", name.replace('_', "-"));
            let (raw, place) = (Raw::Text(value.clone()), error::Place::Flag);
            given.insert((*name).to_owned(), Entry { raw, place, name: flag });
        }
        checks::build(&given, sources)
    }

    /// Every secret there is, for the log to hide; the database's password also by itself.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let secrets = [&self.database_url, &self.secret_key, &self.telegram.bot_token].into_iter().flatten();
        let mut secrets: Vec<String> = secrets.map(|secret| secret.reveal().to_owned()).collect();
        if let Some(url) = &self.database_url {
            secrets.extend(checks::passwords(url.reveal()));
        }
        secrets
    }
}

/// `[alerts]` as it is when nothing is set.
#[cfg(test)]
pub(crate) fn tests_only_alerts() -> Alerts {
    Alerts::read(&Given::new(Path::new("/")), "alerts").expect("the defaults are good")
}

/// A file's text, or `None` if there is no such file.
fn read_if_there(path: &Path, shown: &str) -> Result<Option<String>, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let why = format!("it is there and cannot be read ({error}); make it readable UTF-8 text or remove it");
            Err(ConfigError::Unreadable { file: shown.to_owned(), why })
        }
    }
}

/// The same in the working folder. One that this user may not look into says nothing: `runuser -u vmshare` typed in root's home.
fn read_if_seen(path: &Path, shown: &str) -> Result<Option<String>, ConfigError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        _ => read_if_there(path, shown),
    }
}

/// The TOML file that counts.
struct Found {
    path: PathBuf,
    shown: String,
    text: String,
}

fn find_toml(named: Option<(&str, PathBuf)>, cwd: &Path, system_file: &Path) -> Result<Option<Found>, ConfigError> {
    if let Some((by, name)) = named {
        let (path, shown) = (cwd.join(&name), name.display().to_string());
        let Some(text) = read_if_there(&path, &shown)? else {
            let why = format!("{by} names this file, and it is not there; make it or correct the name");
            return Err(ConfigError::Unreadable { file: shown, why });
        };
        return Ok(Some(Found { path, shown, text }));
    }
    let (here, system) = (cwd.join("vmshare.toml"), system_file.to_owned());
    if let Some(text) = read_if_seen(&here, "vmshare.toml")? {
        return Ok(Some(Found { path: here, shown: "vmshare.toml".to_owned(), text }));
    }
    let shown = system.display().to_string();
    if let Some(text) = read_if_there(&system, &shown)? {
        return Ok(Some(Found { path: system, shown, text }));
    }
    Ok(None)
}
