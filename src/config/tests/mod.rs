//! What a person who configures the server sees: which source wins, and the sentence for each mistake.

mod mistakes;

use super::*;
use crate::config::cli_args::{Command, parse};

/// A working folder with a `vmshare.toml` and a `.env`, each if not empty; no system file.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(toml: &str, dotenv: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [("vmshare.toml", toml), (".env", dotenv)] {
            if !text.is_empty() {
                std::fs::write(folder.path().join(name), text).expect("a file");
            }
        }
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn load(&self, flags: &[&str], environment: &[(&str, &str)]) -> Result<(Config, Vec<String>), ConfigError> {
        let line = ["serve"].iter().chain(flags).map(Into::into);
        let Ok(Command::Serve(overrides)) = parse(line) else { panic!("{flags:?} is not understood") };
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load_with(&overrides, environment, self.path(), &self.path().join("etc/vmshare.toml"))
    }
}

fn from_toml(text: &str) -> Result<(Config, Vec<String>), ConfigError> {
    Scene::new(text, "").load(&[], &[])
}

fn good(text: &str) -> Config {
    from_toml(text).unwrap_or_else(|error| panic!("{text}\n{error}")).0
}

fn refusal(result: Result<(Config, Vec<String>), ConfigError>) -> String {
    result.map(|(config, _)| config).expect_err("this should be refused").to_string()
}

#[test]
fn nothing_given_means_the_documented_defaults() {
    let (config, warnings) = Scene::new("", "").load(&[], &[]).expect("the defaults");
    assert_eq!(warnings, [""; 0]);
    assert_eq!((config.host.to_string(), config.port, config.http_port), ("0.0.0.0".to_owned(), 8443, None));
    assert_eq!((config.tls, config.signup, config.accel), (Tls::SelfSigned, Signup::Open, AccelWish::Auto));
    assert_eq!(config.base_dir, Path::new("/var/lib/vmshare"));
    assert_eq!((config.session_minutes, config.novnc_base_url.as_str()), (120, "/novnc"));
    assert_eq!((config.alerts.cpu_percent, config.alerts.disk_percent, config.alerts.sample_seconds), (90, 85, 5));
    assert_eq!((config.limits.max_connections, config.limits.signups_per_minute), (12_000, 200));
    assert_eq!(config.log, LogSettings { format: LogFormat::Text, level: log::LevelFilter::Info });
    assert_eq!((config.sources.len(), config.profiles.len()), (0, 1));
    let profile = &config.profiles["custom"];
    assert_eq!((profile.base_image.as_str(), profile.prefix.as_str()), ("/var/lib/vmshare/uploads", "{uid}.iso"));
    assert_eq!((profile.vnc_ports.clone(), profile.http_ports.clone()), (5901..=5999, 6101..=6199));
    assert_eq!((profile.default_memory_mb, profile.max_memory_mb), (2048, 4096));
    assert_eq!((profile.default_cpus, profile.max_cpus), (2, 4));
    assert_eq!(
        (profile.network, profile.vnc, profile.persistence),
        (Network::Restricted, VncListen::Unix, Persistence::Ephemeral)
    );
}

#[test]
fn flags_win_over_environment_over_dotenv_over_toml_over_defaults() {
    let port = |toml, dotenv, environment: &[(&str, &str)], flags: &[&str]| {
        Scene::new(toml, dotenv).load(flags, environment).expect("a configuration").0.port
    };
    let environment = [("PORT", "3")];
    assert_eq!(port("port = 1", "PORT=2", &environment, &["--port", "4"]), 4);
    assert_eq!(port("port = 1", "PORT=2", &environment, &[]), 3);
    assert_eq!(port("port = 1", "PORT=2", &[], &[]), 2);
    assert_eq!(port("port = 1", "", &[], &[]), 1);
    assert_eq!(port("", "", &[], &[]), 8443);
    assert_eq!(port("port = 1", "PORT=", &[("PORT", "")], &[]), 1, "an empty value is none");
    assert_eq!(port("", "", &[], &["--port", "4", "--port=5"]), 5, "the last flag counts");
}

#[test]
fn one_toml_file_counts_the_named_one_first_the_systems_last() {
    let place = Scene::new("port = 1", "");
    let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).expect("a file");
    std::fs::create_dir(place.path().join("etc")).expect("a folder");
    write("a.toml", "port = 10\nvm_base_dir = 'data'");
    write("b.toml", "port = 11");
    write("c.toml", "port = 12");
    write("etc/vmshare.toml", "port = 13\nvm_base_dir = '../data'\ntls_cert = 'c.pem'\ntls_key = '/k.pem'");
    let port = |flags: &[&str], environment: &[(&str, &str)]| place.load(flags, environment).expect("good").0.port;
    assert_eq!(port(&["--config", "a.toml"], &[("VMSHARE_CONFIG", "b.toml")]), 10);
    assert_eq!(port(&[], &[("VMSHARE_CONFIG", "b.toml")]), 11);
    write(".env", "VMSHARE_CONFIG=c.toml");
    assert_eq!(port(&[], &[("VMSHARE_CONFIG", "b.toml")]), 11);
    assert_eq!(port(&[], &[]), 12);
    std::fs::remove_file(place.path().join(".env")).expect("gone");
    assert_eq!(port(&[], &[]), 1);
    std::fs::remove_file(place.path().join("vmshare.toml")).expect("gone");
    let (config, _) = place.load(&[], &[]).expect("the system's");
    assert_eq!((config.port, config.sources.clone()), (13, vec![place.path().join("etc/vmshare.toml")]));
    assert_eq!(config.base_dir, place.path().join("etc/../data"), "relative paths start at the file that names them");
    assert_eq!(config.tls, Tls::Files { cert: place.path().join("etc/c.pem"), key: "/k.pem".into() });
    let (config, _) = place.load(&["--vm-base-dir", "here"], &[]).expect("good");
    assert_eq!(config.base_dir, place.path().join("here"), "or at the working folder");
}

#[test]
fn a_file_that_was_asked_for_must_be_there_and_one_that_is_there_must_be_readable() {
    let place = Scene::new("", "");
    let missing = "no.toml: --config names this file, and it is not there; make it or correct the name";
    assert_eq!(refusal(place.load(&["--config", "no.toml"], &[])), missing);
    assert!(refusal(place.load(&[], &[("VMSHARE_CONFIG", "no.toml")])).starts_with("no.toml: VMSHARE_CONFIG names"));
    std::fs::write(place.path().join(".env"), b"PORT=\xff").expect("a file");
    assert!(refusal(place.load(&[], &[])).starts_with(".env: it is there and cannot be read"));
}

#[test]
fn text_sources_know_switches_lists_and_localhost() {
    let dotenv = "TLS=off\nHOST=localhost\nTRUSTED_PROXIES=127.0.0.1, 10.0.0.0/8\nSTOP_VMS_ON_EXIT=yes\nACCEL=tcg\nLOG_FORMAT=json\nSIGNUP=invite";
    let (config, warnings) = Scene::new("", dotenv).load(&["--log-level", "debug"], &[]).expect("good");
    assert_eq!((config.tls, config.host.to_string()), (Tls::Off, "127.0.0.1".to_owned()));
    assert_eq!(
        config.trusted_proxies.iter().map(Subnet::to_string).collect::<Vec<_>>(),
        ["127.0.0.1/32", "10.0.0.0/8"]
    );
    assert!(config.stop_vms_on_exit);
    assert_eq!((config.accel, config.signup, config.log.format), (AccelWish::Tcg, Signup::Invite, LogFormat::Json));
    assert_eq!((config.log.level, warnings), (log::LevelFilter::Debug, vec![]));
    assert_eq!(good("tls = false").tls, Tls::Off);
}

#[test]
fn the_old_versions_env_file_works_with_one_warning_per_matter() {
    let old = "DATABASE_URL=postgresql+psycopg2://user:pass@localhost:5432/vmshare\nHOST=0.0.0.0\nPORT=8000\n\
        SECRET_KEY=0123456789abcdef0123456789abcdef\nACCESS_TOKEN_EXPIRE_MINUTES=120\nVM_BASE_DIR=/var/lib/vmshare\n\
        NOVNC_BASE_URL=/novnc\nWEBSOCKIFY_HOST=127.0.0.1\nWEBSOCKIFY_BASE_PORT=5901\nTG_BOT_TOKEN=123456:ABC...\nTG_CHAT_ID=123456789\n";
    let (config, warnings) = Scene::new("", old).load(&[], &[]).expect("the old file");
    let url = config.database_url.as_ref().map(Secret::reveal);
    assert_eq!(url, Some("postgresql://user:pass@localhost:5432/vmshare"));
    assert_eq!((config.port, config.telegram.chat_id.as_deref()), (8000, Some("123456789")));
    let [vnc] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(vnc.starts_with(".env:8: WEBSOCKIFY_HOST: this and WEBSOCKIFY_BASE_PORT are no longer needed: "), "{vnc}");
}

#[test]
fn what_has_no_effect_is_warned_about() {
    let warning = |toml| match from_toml(toml).expect("good").1.as_slice() {
        [one] => one.clone(),
        other => panic!("{other:?}"),
    };
    assert!(warning("tls = false\nhttp_port = 80").starts_with("vmshare.toml:2: http_port: without effect"));
    assert!(warning("tls = false\ntls_cert = 'x'").starts_with("vmshare.toml:2: tls_cert: without effect"));
    assert!(warning("tg_chat_id = 5").contains("tg_chat_id: without effect until TG_BOT_TOKEN is set too"));
    assert!(warning("tg_bot_token = '1:A'").contains("tg_bot_token: without effect until TG_CHAT_ID is set too"));
    assert!(warning("websockify_base_port = 5901").contains("websockify_base_port: this is no longer needed"));
    let short = warning("secret_key = 'hunter2'");
    assert!(short.starts_with("vmshare.toml:1: secret_key: it is short enough to guess"));
    assert!(!short.contains("hunter2"));
}

#[test]
fn vnc_over_tcp_stays_on_loopback_and_starts_at_the_old_base_port() {
    let config = good(
        "websockify_base_port = 5950\n[profiles.custom]\nvnc = 'tcp'\n[profiles.own]\nvnc = 'tcp'\nvnc_port_range = [6000, 6009]",
    );
    assert_eq!(config.profiles["custom"].vnc_ports, 5950..=6048);
    assert_eq!(config.profiles["own"].vnc_ports, 6000..=6009);
    let error = refusal(from_toml("websockify_host = '0.0.0.0'\n[profiles.custom]\nvnc = 'tcp'"));
    assert!(error.starts_with("vmshare.toml:1: websockify_host: every desktop"), "{error}");
}

#[test]
fn secrets_are_in_no_debug_text_and_all_are_listed_for_the_log() {
    let toml = "secret_key = 'kkkkkkkk-kkkkkkkk-kkkkkkkk-kkkkkkkk'\ntg_bot_token = '12:tttt'\ndatabase_url = 'postgres://u:p%40ss@h/d'";
    let (config, warnings) = from_toml(toml).expect("good");
    let shown = format!("{config:?} {:#?} {warnings:?}", config);
    for secret in ["kkkk", "tttt", "p%40ss", "p@ss"] {
        assert!(!shown.contains(secret), "{secret}");
    }
    assert!(shown.contains("[hidden]"));
    let wanted = ["postgresql://u:p%40ss@h/d", "kkkkkkkk-kkkkkkkk-kkkkkkkk-kkkkkkkk", "12:tttt", "p%40ss", "p@ss"];
    assert_eq!(config.secrets(), wanted);
    assert_eq!(Secret::new("x").to_string(), "[hidden]");
}

#[test]
fn profiles_resolve_images_by_directory_file_and_template() {
    let toml = "vm_base_dir = '/data'\n[profiles.shared]\nbase_image = '/srv/iso/debian.iso'\n[profiles.each]\nbase_image = '{VM_BASE_DIR}/users/{uid}/boot.iso'\n[profiles.near]\nbase_image = 'isos'\ntitle = 'Near'";
    let place = Scene::new(toml, "");
    let (config, _) = place.load(&[], &[]).expect("good");
    let rule = |name: &str, is_directory| config.profiles[name].image_rule("ab12", is_directory).expect("a good uid");
    let in_uploads = ImageRule::InDirectory { dir: "/data/uploads".into(), name: "ab12.iso".to_owned() };
    assert_eq!(rule("custom", true), in_uploads);
    assert_eq!(in_uploads.path(), Path::new("/data/uploads/ab12.iso"));
    assert_eq!(rule("shared", false), ImageRule::File("/srv/iso/debian.iso".into()));
    assert_eq!(rule("each", false).path(), Path::new("/data/users/ab12/boot.iso"));
    assert_eq!(config.profiles["near"].image_base("x"), Ok(place.path().join("isos")));
    assert_eq!((config.profiles["near"].title.as_str(), config.profiles["each"].title.as_str()), ("Near", "each"));
    for (name, root, names_users) in
        [("custom", "/data/uploads", true), ("each", "/data/users", true), ("shared", "/srv/iso/debian.iso", true)]
    {
        let profile = &config.profiles[name];
        assert_eq!((profile.allowed_root(), profile.names_users()), (PathBuf::from(root), names_users));
    }
    for uid in ["", "..", "a/b", "a\0", "a.b", "{uid}", &"x".repeat(65)] {
        assert_eq!(config.profiles["custom"].image_rule(uid, true), Err(BadUid), "{uid:?}");
    }
}

#[test]
fn the_most_a_user_may_ask_for_follows_a_larger_default() {
    let profile = good("[profiles.custom]\ndefault_memory_mb = 8192\ndefault_cpus = 8").profiles["custom"].clone();
    assert_eq!((profile.max_memory_mb, profile.max_cpus), (8192, 8));
}

const EXAMPLE: &str = include_str!("../../../conf/vmshare.example.toml");

fn uncommented(mark: &str) -> String {
    let line = |line: &str| match line.strip_prefix(mark) {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    EXAMPLE.lines().map(line).collect()
}

#[test]
fn the_example_file_is_the_defaults_with_and_without_its_comment_signs() {
    let defaults = Config { sources: vec![], ..good("port = 8443") };
    let as_it_is = Config { sources: vec![], ..good(EXAMPLE) };
    let taken_out = Config { sources: vec![], ..good(&uncommented("#")) };
    assert_eq!(as_it_is, defaults);
    assert_eq!(taken_out, defaults);
    assert_eq!(from_toml(EXAMPLE).expect("good").1, [""; 0], "it is nothing to warn about");
}

#[test]
fn the_example_file_shows_each_setting_with_its_meaning_and_a_good_value() {
    for setting in reference() {
        let names = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{} = ", setting.name));
        let lines: Vec<&str> = EXAMPLE.lines().collect();
        let at = lines.iter().position(|line| names(line)).unwrap_or_else(|| panic!("{} is missing", setting.path()));
        assert_eq!(lines[at - 1], format!("# {}", setting.meaning), "{}", setting.path());
        assert_eq!(lines[at].starts_with("## "), setting.default.is_empty() && setting.name != "trusted_proxies");
    }
    let error = refusal(from_toml(&uncommented("## ")));
    assert!(error.contains(": secret_key: this is the placeholder"), "{error}");
    let honoured = |line: &&str| !line.starts_with("secret_key");
    let examples: String = uncommented("## ").lines().filter(honoured).map(|line| format!("{line}\n")).collect();
    assert_eq!(good(&examples).http_port, Some(8080));
}

#[test]
fn the_help_names_each_setting_and_no_secrets_flag() {
    let Ok(Command::Help(text)) = parse(["serve", "--help"].into_iter().map(Into::into)) else { panic!("no help") };
    for setting in reference() {
        assert!(text.contains(setting.meaning), "{}", setting.path());
        let shown = setting.flag().unwrap_or_else(|| format!("{} = ", setting.name));
        assert!(setting.secret || text.contains(&shown), "{shown}");
        if let Some(name) = setting.environment_name() {
            assert!(text.contains(&name), "{name}");
        }
    }
    assert!(!text.contains("--secret-key") && text.contains("SECRET_KEY (never a flag"));
}
