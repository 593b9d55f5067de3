//! The log: one line per record on standard error, as text or JSON, without secrets.
//!
//! Text is `TIME LEVEL message key=value …`; JSON is one object with the same fields. Under systemd's journal (standard
//! error is the stream that `JOURNAL_STREAM` names) a line starts with its priority, `<6>`, and has no time of its own,
//! see sd-daemon(3) and systemd.exec(5). Line breaks and other control characters are escaped, so one record is one line
//! whatever a guest or a client put into it, and a long value is cut, so a line has a bound.
//!
//! Secrets are registered once and replaced by `[hidden]` in messages and values before they are escaped. This is the
//! second line of defence; the first is the type `config::Secret`.
//!
//! A panic is one line too, an error with its thread and place: its message may hold anything, a secret or line breaks. With `RUST_BACKTRACE=1`
//! the backtrace is in it.
//!
//! A line is one write(2), so lines of several threads do not mix. If standard error is gone the line is lost and nothing
//! else happens: a server must not fall over its own log. Records of the libraries below us are written from `warn` up,
//! all of them only at `trace`.
//!
//! Must not: allocate without bound, call the `log` macros (but for a panic, which is somebody else's), panic.

use crate::config::{LogFormat, LogSettings};
use jiff::Timestamp;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Metadata, Record};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::panic::PanicHookInfo;
use std::sync::{OnceLock, PoisonError, RwLock};

/// A message or a value is cut at this many bytes.
const PIECE_BYTES: usize = 4096;
/// A shorter secret would hide half of every line; the configuration warns about such keys.
const SECRET_BYTES: usize = 4;
/// Targets that begin with this are ours.
const OURS: &str = env!("CARGO_PKG_NAME");
/// One that complains of each certificate it refuses, which who calls is told too, and tells once.
const TOLD_ELSEWHERE: &str = "rustls_platform_verifier";

static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());
static SHAPE: OnceLock<Shape> = OnceLock::new();
static LOGGER: Logger = Logger;

struct Logger;

/// How lines look; fixed at the first `init`.
#[derive(Clone, Copy)]
struct Shape {
    format: LogFormat,
    journal: bool,
}

/// Starts the log. Called again, it changes the level only.
pub fn init(settings: &LogSettings) {
    let stderr = std::fs::metadata("/proc/self/fd/2").ok().map(|file| (file.dev(), file.ino()));
    let journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), stderr);
    SHAPE.get_or_init(|| Shape { format: settings.format, journal });
    log::set_max_level(settings.level);
    // It fails only if a logger is set already, which is this one.
    let _ = log::set_logger(&LOGGER);
    std::panic::set_hook(Box::new(tell_panic));
}

/// In place of the standard library's lines, which know no secrets and no format.
fn tell_panic(info: &PanicHookInfo<'_>) {
    if is_closed_output(info) {
        return;
    }
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let payload = info.payload();
    let message =
        payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no words");
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        log::error!(thread = thread, place = place.as_str(), backtrace:% = trace; "a bug, it panicked: {message}");
    } else {
        log::error!(thread = thread, place = place.as_str(); "a bug, it panicked: {message}");
    }
}

/// Whoever read what a command prints has seen enough, as `head` has. The command ends there, which is no bug and needs no word.
#[must_use]
pub fn is_closed_output(info: &PanicHookInfo<'_>) -> bool {
    info.payload()
        .downcast_ref::<String>()
        .is_some_and(|text| text.starts_with("failed printing to stdout: Broken pipe"))
}

/// From now on `secret` is written as `[hidden]`. Texts of fewer than four bytes are not taken.
pub fn register_secret(secret: &str) {
    if secret.len() < SECRET_BYTES {
        return;
    }
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    if !secrets.iter().any(|known| known == secret) {
        secrets.push(secret.to_owned());
        // The longest first: a URL before the password in it.
        secrets.sort_by_key(|known| std::cmp::Reverse(known.len()));
    }
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= least(metadata.target(), log::max_level())
    }

    fn log(&self, record: &Record<'_>) {
        let Some(shape) = SHAPE.get().filter(|_| self.enabled(record.metadata())) else { return };
        let line = {
            let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
            line(*shape, Timestamp::now(), record, &secrets)
        };
        // One write, its outcome ignored: there is nobody left to tell.
        let _ = std::io::stderr().write(line.as_bytes());
    }

    fn flush(&self) {}
}

/// From which level on records of this target are written, when it is `level` for ours.
fn least(target: &str, level: LevelFilter) -> LevelFilter {
    if target.starts_with(OURS) || level == LevelFilter::Trace {
        level
    } else if target.starts_with(TOLD_ELSEWHERE) {
        LevelFilter::Off
    } else {
        level.min(LevelFilter::Warn)
    }
}

/// Whether standard error (device and inode) is the stream that systemd connected to the journal.
fn is_journal(journal_stream: Option<&str>, stderr: Option<(u64, u64)>) -> bool {
    let named = journal_stream.and_then(|text| text.split_once(':'));
    let named = named.and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    named.is_some() && named == stderr
}

fn line(shape: Shape, now: Timestamp, record: &Record<'_>, secrets: &[String]) -> String {
    let mut line = String::with_capacity(160);
    if shape.journal {
        line.push_str(priority(record.level()));
    }
    let time = (!shape.journal).then_some(now);
    match shape.format {
        LogFormat::Text => text(&mut line, time, record, secrets),
        LogFormat::Json => json(&mut line, time, record, secrets),
    }
    line.push('\n');
    line
}

/// sd-daemon(3): syslog's priorities.
fn priority(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

fn text(line: &mut String, time: Option<Timestamp>, record: &Record<'_>, secrets: &[String]) {
    if let Some(time) = time {
        // Writing to a String cannot fail, here and below.
        let _ = write!(line, "{time:.3} {:5} ", record.level());
    }
    if let Some(target) = foreign(record) {
        let _ = write!(line, "{}: ", target.escape_debug());
    }
    escape(line, &clean(&record.args().to_string(), secrets));
    let mut pairs = Pairs(|key: &str, value: &Value<'_>| {
        let _ = write!(line, " {}=", key.escape_debug());
        let value = value.to_string();
        let value = clean(&value, secrets);
        let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=' && c != '\\';
        if !value.is_empty() && value.chars().all(is_plain) {
            line.push_str(&value);
        } else {
            line.push('"');
            escape(line, &value.replace('\\', "\\\\").replace('"', "\\\""));
            line.push('"');
        }
    });
    let _ = record.key_values().visit(&mut pairs);
}

fn json(line: &mut String, time: Option<Timestamp>, record: &Record<'_>, secrets: &[String]) {
    line.push('{');
    if let Some(time) = time {
        let _ = write!(line, "\"time\":\"{time:.3}\",");
    }
    let _ = write!(line, "\"level\":\"{}\",\"message\":", record.level().as_str().to_ascii_lowercase());
    quote(line, &clean(&record.args().to_string(), secrets));
    if let Some(target) = foreign(record) {
        line.push_str(",\"target\":");
        quote(line, target);
    }
    let mut pairs = Pairs(|key: &str, value: &Value<'_>| {
        line.push(',');
        quote(line, key);
        line.push(':');
        let written = value.to_string();
        let text = clean(&written, secrets);
        let is_bare = value.to_bool().is_some() || value.to_i64().is_some() || value.to_u64().is_some();
        if is_bare && text == written { line.push_str(&text) } else { quote(line, &text) }
    });
    let _ = record.key_values().visit(&mut pairs);
    line.push('}');
}

/// The target, if the record is a library's.
fn foreign<'a>(record: &Record<'a>) -> Option<&'a str> {
    let target = record.metadata().target();
    (!target.starts_with(OURS)).then_some(target)
}

/// Cut to its bound, secrets hidden.
fn clean<'a>(text: &'a str, secrets: &[String]) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    // Hidden first: a cut could leave half a secret that is no longer found.
    for secret in secrets {
        if text.contains(secret.as_str()) {
            text = Cow::Owned(text.replace(secret.as_str(), "[hidden]"));
        }
    }
    if text.len() > PIECE_BYTES {
        let end = (0..=PIECE_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text = Cow::Owned(format!("{}… ({} bytes)", &text[..end], text.len()));
    }
    text
}

fn escape(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

fn quote(line: &mut String, text: &str) {
    // Serializing a str cannot fail; an empty string keeps the object whole if it ever does.
    line.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned()));
}

/// Calls a closure for each key and value of a record.
struct Pairs<F>(F);

impl<'kvs, F: FnMut(&str, &Value<'kvs>)> VisitSource<'kvs> for Pairs<F> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        (self.0)(key.as_str(), &value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format_args as args;

    const TEXT: Shape = Shape { format: LogFormat::Text, journal: false };
    const JSON: Shape = Shape { format: LogFormat::Json, journal: false };

    fn time() -> Timestamp {
        "2026-11-23T10:11:03.1Z".parse().expect("a time")
    }

    fn written(
        shape: Shape,
        message: std::fmt::Arguments<'_>,
        pairs: &[(&str, Value<'_>)],
        secrets: &[&str],
    ) -> String {
        let secrets: Vec<String> = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        let mut record = Record::builder();
        record.level(Level::Info).target("vmshare::net::relay").key_values(&pairs);
        line(shape, time(), &record.args(message).build(), &secrets)
    }

    #[test]
    fn a_text_line_has_time_level_message_and_pairs() {
        let pairs = [("vmid", Value::from("c9a2f1")), ("bytes", Value::from(17)), ("why", Value::from("it ended"))];
        let line = written(TEXT, args!("relay connected"), &pairs, &[]);
        assert_eq!(line, "2026-11-23T10:11:03.100Z INFO  relay connected vmid=c9a2f1 bytes=17 why=\"it ended\"\n");
    }

    #[test]
    fn a_json_line_is_one_object_with_numbers_as_numbers() {
        let pairs = [("vmid", Value::from("c9\"a")), ("bytes", Value::from(17)), ("ok", Value::from(true))];
        let line = written(JSON, args!("relay\nconnected"), &pairs, &[]);
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["time"], "2026-11-23T10:11:03.100Z");
        assert_eq!(value["level"], "info");
        assert_eq!(value["message"], "relay\nconnected");
        assert_eq!(value["vmid"], "c9\"a");
        assert_eq!(value["bytes"], 17);
        assert_eq!(value["ok"], true);
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn nothing_a_guest_says_makes_a_second_line_or_a_false_pair() {
        let pairs =
            [("said", Value::from("a\nb\u{1b}[31m")), ("user", Value::from("x role=admin")), ("e", Value::from(""))];
        let line = written(TEXT, args!("one\r\ntwo\u{2028}"), &pairs, &[]);
        let wanted = "one\\r\\ntwo\\u{2028} said=\"a\\nb\\u{1b}[31m\" user=\"x role=admin\" e=\"\"\n";
        assert!(line.ends_with(wanted), "{line}");
        let pairs = [("q", Value::from("say \"hi\" \\"))];
        assert!(written(TEXT, args!("m"), &pairs, &[]).ends_with("m q=\"say \\\"hi\\\" \\\\\"\n"));
    }

    #[test]
    fn secrets_are_hidden_in_messages_and_values_in_both_formats() {
        let secrets = ["postgresql://u:p\"w\n1@h/d", "p\"w\n1"];
        let pairs = [("url", Value::from("postgresql://u:p\"w\n1@h/d")), ("word", Value::from("<p\"w\n1>"))];
        for shape in [TEXT, JSON] {
            let line = written(shape, args!("no {} here", "p\"w\n1"), &pairs, &secrets);
            assert!(line.contains("no [hidden] here"), "{line}");
            assert!(line.contains("<[hidden]>"), "{line}");
            assert!(!line.contains("p\\\"w") && !line.contains("@h/d"), "{line}");
        }
    }

    #[test]
    fn a_secret_at_the_cut_does_not_leave_half_of_itself() {
        let text = format!("{}topsecret", "x".repeat(PIECE_BYTES - 3));
        let line = written(TEXT, args!("{text}"), &[], &["topsecret"]);
        assert!(!line.contains("top"), "{line}");
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let text = "ä".repeat(PIECE_BYTES);
        let line = written(TEXT, args!("x{text}"), &[], &[]);
        assert!(line.len() < PIECE_BYTES + 100);
        assert!(line.contains("ä… (8193 bytes)"));
    }

    #[test]
    fn the_journal_gets_a_priority_and_no_time() {
        let shape = Shape { format: LogFormat::Text, journal: true };
        assert_eq!(written(shape, args!("ready"), &[], &[]), "<6>ready\n");
        let levels = [Level::Error, Level::Warn, Level::Debug].map(priority);
        assert_eq!(levels, ["<3>", "<4>", "<7>"]);
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_journal(Some("8:1234"), Some((8, 1234))));
        assert!(!is_journal(Some("8:1234"), Some((8, 99))));
        assert!(!is_journal(Some("nonsense"), Some((8, 1234))));
        assert!(!is_journal(Some("x:y"), None));
        assert!(!is_journal(None, None));
    }

    #[test]
    fn libraries_are_heard_when_they_warn_and_one_is_not_at_all() {
        use LevelFilter::{Error, Info, Off, Trace, Warn};
        let verifier = "rustls_platform_verifier::verification::others";
        let heard = |level| ["vmshare::vm", "rustls::conn", verifier].map(|target| least(target, level));
        assert_eq!(heard(Info), [Info, Warn, Off]);
        assert_eq!((heard(Error), heard(Trace)), ([Error, Error, Off], [Trace; 3]));
    }

    #[test]
    fn a_librarys_record_names_the_library() {
        let record = Record::builder().level(Level::Warn).target("rustls::conn").args(args!("odd")).build();
        assert_eq!(line(TEXT, time(), &record, &[]), "2026-11-23T10:11:03.100Z WARN  rustls::conn: odd\n");
    }

    /// For the test below, which runs this in a process of its own: a hook is the whole process's.
    #[test]
    fn panics_as_it_is_told() {
        let Ok(format) = std::env::var("VMSHARE_TEST_PANIC") else { return };
        let format = if format == "json" { LogFormat::Json } else { LogFormat::Text };
        init(&LogSettings { level: log::LevelFilter::Info, format });
        register_secret("topsecret");
        let panicking = std::thread::Builder::new().name("unlucky".into()).spawn(|| panic!("no\nluck with topsecret"));
        assert!(panicking.expect("a thread").join().is_err());
    }

    #[test]
    fn a_panic_is_one_line_without_secrets_in_both_formats() {
        for (format, trace) in [("text", "0"), ("json", "0"), ("json", "1")] {
            let output = std::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "--nocapture", "log::tests::panics_as_it_is_told"])
                .envs([("VMSHARE_TEST_PANIC", format), ("RUST_BACKTRACE", trace)])
                .output()
                .expect("it runs");
            let said = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = said.lines().collect();
            let [line] = lines.as_slice() else { panic!("{format}: {said}") };
            assert!(!line.contains("topsecret"), "{line}");
            if format == "text" {
                let wanted = "ERROR a bug, it panicked: no\\nluck with [hidden] thread=unlucky place=src/log.rs:";
                assert!(line.contains(wanted), "{line}");
                continue;
            }
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!((&value["level"], &value["thread"]), (&"error".into(), &"unlucky".into()));
            assert_eq!(value["message"], "a bug, it panicked: no\nluck with [hidden]");
            let traced = value["backtrace"].as_str().is_some_and(|trace| trace.contains("panics_as_it_is_told"));
            assert_eq!(traced, trace == "1", "{line}");
        }
    }

    #[test]
    fn short_texts_are_no_secrets_and_a_secret_is_kept_once() {
        register_secret("abc");
        register_secret("only-in-this-test");
        register_secret("only-in-this-test");
        let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
        assert!(!secrets.iter().any(|secret| secret == "abc"));
        assert_eq!(secrets.iter().filter(|secret| *secret == "only-in-this-test").count(), 1);
    }
}
