//! What settings must be to each other, and the step from what was written to a `Config`.
//!
//! A contradiction stops the start. A setting that is right in itself but without effect here (one of the old version's,
//! or one for a later step) is one warning that says what counts instead.

use super::error::ConfigError;
use super::profile::{Profile, VncListen};
use super::table::Given;
use super::top::Top;
use super::value::Secret;
use super::{Alerts, Config, Limits, LogSettings, Telegram, Tls};
use crate::proto::url;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Volumes that are watched beside the one of `VM_BASE_DIR`.
const VOLUMES: usize = 32;
/// Below this many characters a key can be guessed.
const SECRET_KEY_LENGTH: usize = 32;

pub(super) fn build(given: &Given, sources: Vec<PathBuf>) -> Result<(Config, Vec<String>), ConfigError> {
    let top = Top::read(given, "")?;
    let limits = Limits::read(given, "limits")?;
    let alerts = Alerts::read(given, "alerts")?;
    let mut warnings = Vec::new();
    let tls = tls(given, &top, &mut warnings)?;
    let http_port = http_port(given, &top, &tls, &mut warnings)?;
    let secret_key = secret_key(given, &top, &mut warnings)?;
    let profiles = profiles(given, &top)?;
    old_vnc_settings(given, &top, &profiles, &mut warnings)?;
    check_alerts(given, &top, &alerts, &mut warnings)?;
    let config = Config {
        host: top.host,
        port: top.port,
        http_port,
        tls,
        database_url: database_url(given, top.database_url)?,
        secret_key,
        session_minutes: top.access_token_expire_minutes,
        novnc_base_url: novnc_base_url(given, &top.novnc_base_url)?,
        vnc_host: top.websockify_host,
        vnc_base_port: top.websockify_base_port,
        telegram: Telegram {
            bot_token: bot_token(given, top.tg_bot_token)?,
            chat_id: top.tg_chat_id.map(|chat| chat.0),
            api_base: tg_api_base(given, &top.tg_api_base)?,
        },
        base_dir: top.vm_base_dir,
        trusted_proxies: top.trusted_proxies,
        qemu_bin: top.qemu_bin.map(|program| program.0),
        qemu_img_bin: top.qemu_img_bin.map(|program| program.0),
        postgres_bin_dir: top.postgres_bin_dir,
        signup: top.signup,
        vm_uids: top.vm_uid_range.0,
        vm_cgroup: top.vm_cgroup,
        accel: top.accel,
        stop_vms_on_exit: top.stop_vms_on_exit,
        alerts,
        profiles,
        limits,
        log: LogSettings { format: top.log_format, level: top.log_level },
        sources,
    };
    Ok((config, warnings))
}

fn tls(given: &Given, top: &Top, warnings: &mut Vec<String>) -> Result<Tls, ConfigError> {
    match (&top.tls_cert, &top.tls_key) {
        _ if !top.tls.0 => {
            if let Some(path) = ["tls_cert", "tls_key"].into_iter().find(|path| given.entry(path).is_some()) {
                warnings.push(given.warning(path, "without effect, because tls is off"));
            }
            Ok(Tls::Off)
        }
        (None, None) => Ok(Tls::SelfSigned),
        (Some(cert), Some(key)) => Ok(Tls::Files { cert: cert.clone(), key: key.clone() }),
        (Some(_), None) => Err(given.refuse("tls_cert", "its key is not named", "set tls_key too")),
        (None, Some(_)) => Err(given.refuse("tls_key", "its certificate is not named", "set tls_cert too")),
    }
}

fn http_port(given: &Given, top: &Top, tls: &Tls, warnings: &mut Vec<String>) -> Result<Option<u16>, ConfigError> {
    if top.http_port.is_some() && *tls == Tls::Off {
        warnings.push(given.warning("http_port", "without effect, because tls is off and port speaks plain HTTP"));
        return Ok(None);
    }
    if top.http_port.is_some_and(|port| port != 0 && port == top.port) {
        return Err(given.refuse("http_port", "it is the same as port", "write another port, or remove it"));
    }
    Ok(top.http_port)
}

fn secret_key(given: &Given, top: &Top, warnings: &mut Vec<String>) -> Result<Option<Secret>, ConfigError> {
    let Some(secret) = &top.secret_key else { return Ok(None) };
    let letters: String = secret.reveal().chars().filter(char::is_ascii_alphanumeric).collect();
    if letters.eq_ignore_ascii_case("changeme") {
        let mend = "remove it and the server makes one, or write the output of `openssl rand -hex 32`";
        return Err(given.refuse("secret_key", "this is the placeholder of the example, which everybody knows", mend));
    }
    if secret.reveal().chars().count() < SECRET_KEY_LENGTH {
        let text = "it is short enough to guess; remove it and the server makes one, or write the output of `openssl rand -hex 32`";
        warnings.push(given.warning("secret_key", text));
    }
    Ok(Some(secret.clone()))
}

/// The URL as PostgreSQL's clients know it: SQLAlchemy's `+psycopg2` is taken out.
fn database_url(given: &Given, url: Option<Secret>) -> Result<Option<Secret>, ConfigError> {
    let Some(url) = url else { return Ok(None) };
    let mend = "write postgresql://USER:PASSWORD@HOST:5432/NAME";
    let refuse = |wrong: &str| given.refuse("database_url", wrong, mend);
    let (scheme, rest) = url.reveal().split_once("://").ok_or_else(|| refuse("it is not a URL"))?;
    let scheme = scheme.split_once('+').map_or(scheme, |(scheme, _driver)| scheme);
    if scheme != "postgresql" && scheme != "postgres" {
        return Err(refuse("it is not the URL of a PostgreSQL database"));
    }
    let plain = format!("postgresql://{rest}");
    // The parser's own error might quote the URL.
    plain.parse::<postgres::Config>().map_err(|_| refuse("PostgreSQL's client does not understand it"))?;
    Ok(Some(Secret::new(plain)))
}

/// The password in a database URL, as it is written there and as it is meant.
pub(super) fn passwords(url: &str) -> Vec<String> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = &authority[..authority.find(['/', '?']).unwrap_or(authority.len())];
    let written =
        authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':')).map(|(_, word)| word.to_owned());
    let parsed = url.parse::<postgres::Config>().ok();
    let meant =
        parsed.as_ref().and_then(|config| config.get_password()).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut words: Vec<String> = written.into_iter().chain(meant).collect();
    words.dedup();
    words
}

fn bot_token(given: &Given, token: Option<Secret>) -> Result<Option<Secret>, ConfigError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_-.".contains(&byte);
    match token {
        // It becomes a part of a path.
        Some(token) if !token.reveal().bytes().all(is_plain) => {
            Err(given.refuse("tg_bot_token", "it is not a bot's token", "write it as @BotFather gave it"))
        }
        token => Ok(token),
    }
}

fn is_web_address(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !text.contains([' ', '?', '#', '"', '\\']))
}

fn tg_api_base(given: &Given, text: &str) -> Result<String, ConfigError> {
    if url::host(text).is_none() {
        let mend = "write https://HOST or https://HOST:PORT, with a name or an IPv4 address, and without a query";
        return Err(given.refuse("tg_api_base", "no server can be called there", mend));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn novnc_base_url(given: &Given, text: &str) -> Result<String, ConfigError> {
    // `//host` would send people to another site.
    let is_path = text.starts_with('/') && !text.starts_with("//") && !text.contains([' ', '?', '#', '"', '\\']);
    if !is_path && !is_web_address(text) {
        return Err(given.refuse("novnc_base_url", "it is neither a path nor a web address", "write /novnc"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn profiles(given: &Given, top: &Top) -> Result<BTreeMap<String, Profile>, ConfigError> {
    let named = given.sections.keys().filter_map(|section| section.strip_prefix("profiles."));
    let mut profiles = BTreeMap::new();
    for name in named.chain(["custom"]) {
        let mut profile = Profile::read(given, name, &top.vm_base_dir)?;
        let path = format!("profiles.{name}.vnc_port_range");
        if profile.vnc == VncListen::Tcp {
            if given.entry(&path).is_none()
                && let Some(first) = top.websockify_base_port
            {
                profile.vnc_ports = first..=first.saturating_add(98);
            }
            if *profile.vnc_ports.start() < 5900 {
                let wrong = "QEMU's VNC cannot listen below port 5900, and vnc is \"tcp\"";
                return Err(given.refuse(&path, wrong, "write [5901, 5999]"));
            }
            if let Some(port) =
                [Some(top.port), top.http_port].into_iter().flatten().find(|port| profile.vnc_ports.contains(port))
            {
                let wrong = format!("the server itself listens on {port}, and vnc is \"tcp\"");
                return Err(given.refuse(&path, wrong, "write a range without it, such as [5901, 5999]"));
            }
        }
        profiles.insert(name.to_owned(), profile);
    }
    Ok(profiles)
}

/// The old version's websockify settings mean something to `vnc = "tcp"` profiles only.
fn old_vnc_settings(
    given: &Given,
    top: &Top,
    profiles: &BTreeMap<String, Profile>,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    if profiles.values().any(|profile| profile.vnc == VncListen::Tcp) {
        if top.websockify_host.is_loopback() {
            return Ok(());
        }
        let wrong = "every desktop of a vnc = \"tcp\" profile would be open to the network without a password";
        return Err(given.refuse("websockify_host", wrong, "write 127.0.0.1 and reach it through an SSH tunnel"));
    }
    let names =
        ["websockify_host", "websockify_base_port"].map(|path| given.entry(path).map(|entry| (path, &entry.name)));
    if let Some((path, _)) = names.iter().flatten().next() {
        let both = match &names {
            [Some(_), Some((_, second))] => format!("this and {second} are"),
            _ => "this is".to_owned(),
        };
        let text = format!(
            "{both} no longer needed: the relay is built in and QEMU's VNC listens on a unix socket; \
             only a profile with vnc = \"tcp\" looks at it"
        );
        warnings.push(given.warning(path, &text));
    }
    Ok(())
}

/// Volumes are named by whole paths; a bot needs a chat, and a chat a bot.
fn check_alerts(given: &Given, top: &Top, alerts: &Alerts, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
    if let Some(path) = alerts.volumes.keys().find(|path| !path.starts_with('/')) {
        let wrong = format!("{path:?} is no whole path");
        return Err(given.refuse("alerts.volumes", wrong, "write the folder it is mounted on, such as \"/srv\""));
    }
    if alerts.volumes.len() > VOLUMES {
        let wrong = format!("there are {} of them", alerts.volumes.len());
        return Err(given.refuse("alerts.volumes", wrong, format!("name {VOLUMES} at most")));
    }
    let half = match (&top.tg_bot_token, &top.tg_chat_id) {
        (Some(_), None) => Some(("tg_bot_token", "tg_chat_id")),
        (None, Some(_)) => Some(("tg_chat_id", "tg_bot_token")),
        _ => None,
    };
    if let Some((set, missing)) = half {
        let text = format!("without effect until {} is set too; alerts are only logged", missing.to_ascii_uppercase());
        warnings.push(given.warning(set, &text));
    }
    Ok(())
}
