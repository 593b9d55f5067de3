//! The command line: which command, and which settings it carries.
//!
//! Every setting that is no secret has a flag with its name, `--vm-base-dir DIR`; flags may stand before or after the
//! command. Secrets have none: every user of the host can list the arguments of a process. The values of settings are not
//! looked at here, that is `Config::load`'s, which says `--port: …` when one will not do.
//!
//! Must not: print, exit, read the environment or the terminal.

mod image;
mod user;
mod vm;

pub use image::ImageCommand;
pub use user::{Role, UserCommand};
pub use vm::VmCommand;

use super::table::closest;
use super::{Overrides, help, top_settings};
use lexopt::Arg;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the server.
    Serve(Overrides),
    /// Say what this host lacks.
    Check(Overrides),
    /// Send a test message to Telegram.
    CheckTelegram(Overrides),
    /// Remove what is left over; with true only say what that would be.
    Clean {
        /// Nothing is removed.
        dry_run: bool,
        /// Settings by flags.
        overrides: Overrides,
    },
    /// Do something about accounts.
    User(UserCommand, Overrides),
    /// Do something about VMs.
    Vm(VmCommand, Overrides),
    /// Do something about images.
    Image(ImageCommand, Overrides),
    /// Print the version.
    Version,
    /// Print this text.
    Help(String),
}

/// Why a command line was not understood. Display is one line with the mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgError {
    /// A command that does not exist.
    UnknownCommand {
        /// As it was written.
        word: String,
        /// What was probably meant.
        near: Option<&'static str>,
    },
    /// An option that does not exist, or not for this command.
    UnknownOption {
        /// As it was written, with its dashes.
        option: String,
        /// What was probably meant.
        near: Option<String>,
    },
    /// A secret was given as a flag.
    SecretFlag {
        /// Its name in the environment.
        name: String,
    },
    /// An option without its value.
    MissingValue {
        /// With its dashes.
        option: String,
    },
    /// A value that will not do.
    BadValue {
        /// The option or word.
        option: String,
        /// What to write.
        mend: &'static str,
    },
    /// An option twice.
    Twice {
        /// With its dashes.
        option: String,
    },
    /// A word too few or too many.
    Usage {
        /// How it is written.
        usage: &'static str,
    },
    /// What the parser of options says about something else.
    Other(String),
}

impl fmt::Display for ArgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCommand { word, near: Some(near) } => {
                write!(f, "{word:?} is no command; did you mean {near}?")
            }
            Self::UnknownCommand { word, .. } => write!(f, "{word:?} is no command; `vmshare help` lists them"),
            Self::UnknownOption { option, near: Some(near) } => {
                write!(f, "{option} is no option here; did you mean {near}?")
            }
            Self::UnknownOption { option, .. } => write!(f, "{option} is no option here; `vmshare help` lists them"),
            Self::SecretFlag { name } => write!(
                f,
                "{name} is a secret, and every user of the host can read the arguments of a process; \
                 put it into the environment, .env or vmshare.toml"
            ),
            Self::MissingValue { option } => write!(f, "{option} has no value; write {option} VALUE"),
            Self::BadValue { option, mend } => write!(f, "the value of {option} will not do; {mend}"),
            Self::Twice { option } => write!(f, "{option} is given twice; remove one"),
            Self::Usage { usage } => write!(f, "a word is missing or too many; write `{usage}`"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ArgError {}

/// Options that are no settings, and whether they have a value.
const OPTIONS: [(&str, bool); 13] = [
    ("email", true),
    ("login", true),
    ("role", true),
    ("password-stdin", false),
    ("json", false),
    ("uses", true),
    ("days", true),
    ("dry-run", false),
    ("telegram", false),
    ("all", false),
    ("user", true),
    ("name", true),
    ("format", true),
];
const COMMANDS: [&str; 8] = ["serve", "check", "clean", "user", "vm", "image", "version", "help"];

/// Everything on the line, sorted but not yet understood.
#[derive(Default)]
struct Line {
    words: Vec<String>,
    overrides: Overrides,
    options: Vec<(&'static str, String)>,
    help: bool,
    version: bool,
}

/// Understands the arguments behind the program's name.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, ArgError> {
    let mut line = sort(args)?;
    if line.version {
        return Ok(Command::Version);
    }
    if line.words.first().is_some_and(|word| word == "help") {
        line.words.remove(0);
        line.help = true;
    }
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    let Some((command, rest)) = words.split_first() else { return Ok(Command::Help(help::COMMANDS.to_owned())) };
    if line.help {
        return help_for(command).map(Command::Help);
    }
    match *command {
        "user" => return Ok(Command::User(user::command(rest, &line.options)?, line.overrides)),
        "vm" => return Ok(Command::Vm(vm::command(rest, &line.options)?, line.overrides)),
        "image" => return Ok(Command::Image(image::command(rest, &line.options)?, line.overrides)),
        _ => {}
    }
    if *command == "clean" && rest.is_empty() {
        only(&["dry-run"], &line.options)?;
        return Ok(Command::Clean { dry_run: !line.options.is_empty(), overrides: line.overrides });
    }
    if *command == "check" && rest.is_empty() && !line.options.is_empty() {
        only(&["telegram"], &line.options)?;
        return Ok(Command::CheckTelegram(line.overrides));
    }
    only(&[], &line.options)?;
    match (*command, rest) {
        ("serve", []) => Ok(Command::Serve(line.overrides)),
        ("check", []) => Ok(Command::Check(line.overrides)),
        ("version", []) => Ok(Command::Version),
        ("serve" | "check" | "version", _) => Err(ArgError::Usage { usage: "vmshare serve|check|version" }),
        ("clean", _) => Err(ArgError::Usage { usage: "vmshare clean [--dry-run]" }),
        _ => Err(unknown_command(command, &COMMANDS)),
    }
}

fn help_for(command: &str) -> Result<String, ArgError> {
    match command {
        "serve" => Ok(help::with_settings("serve", "Starts the server and stays until it is told to end.")),
        "check" => Ok(help::with_settings("check [--telegram]", help::CHECK)),
        "clean" => Ok(help::with_settings("clean [--dry-run]", help::CLEAN)),
        "user" => Ok(help::USER.to_owned()),
        "vm" => Ok(help::VM.to_owned()),
        "image" => Ok(help::IMAGE.to_owned()),
        "version" | "help" => Ok(help::COMMANDS.to_owned()),
        other => Err(unknown_command(other, &COMMANDS)),
    }
}

fn unknown_command(word: &str, known: &[&'static str]) -> ArgError {
    ArgError::UnknownCommand { word: word.to_owned(), near: closest(word, known.iter().copied()) }
}

fn sort(args: impl Iterator<Item = OsString>) -> Result<Line, ArgError> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut line = Line::default();
    while let Some(arg) = parser.next().map_err(|error| ArgError::Other(error.to_string()))? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => line.help = true,
            Arg::Short('V') | Arg::Long("version") => line.version = true,
            Arg::Value(word) => line.words.push(utf8(word, "a word")?),
            Arg::Short(letter) => {
                return Err(ArgError::UnknownOption { option: format!("-{letter}"), near: None });
            }
            Arg::Long(name) => {
                let name = name.to_owned();
                option(&mut line, &mut parser, &name)?;
            }
        }
    }
    Ok(line)
}

fn option(line: &mut Line, parser: &mut lexopt::Parser, name: &str) -> Result<(), ArgError> {
    let dashed = format!("--{name}");
    let mut value = || parser.value().map_err(|_| ArgError::MissingValue { option: dashed.clone() });
    if name == "config" {
        let file = PathBuf::from(value()?);
        return if line.overrides.config.replace(file).is_none() {
            Ok(())
        } else {
            Err(ArgError::Twice { option: dashed })
        };
    }
    if let Some((name, has_value)) = OPTIONS.into_iter().find(|(option, _)| *option == name) {
        let value = if has_value { utf8(value()?, &dashed)? } else { String::new() };
        if line.options.iter().any(|(given, _)| *given == name) {
            return Err(ArgError::Twice { option: dashed });
        }
        line.options.push((name, value));
        return Ok(());
    }
    let Some(setting) = top_settings().find(|setting| setting.name == name.replace('-', "_")) else {
        let flags: Vec<String> = top_settings().filter_map(super::Setting::flag).collect();
        let options = flags.iter().map(|flag| flag.trim_start_matches('-')).chain(OPTIONS.map(|(name, _)| name));
        let near = closest(&name.replace('_', "-"), options.chain(["config", "help", "version"]));
        return Err(ArgError::UnknownOption { option: dashed, near: near.map(|near| format!("--{near}")) });
    };
    if setting.secret {
        return Err(ArgError::SecretFlag { name: setting.name.to_ascii_uppercase() });
    }
    let value = utf8(value()?, &dashed)?;
    if value.trim().is_empty() {
        return Err(ArgError::MissingValue { option: dashed });
    }
    line.overrides.settings.push((setting.name, value));
    Ok(())
}

fn utf8(text: OsString, option: &str) -> Result<String, ArgError> {
    text.into_string().map_err(|_| ArgError::BadValue { option: option.to_owned(), mend: "write it in UTF-8" })
}

/// Options that are no settings, as they were given.
type Given = [(&'static str, String)];

/// The value of an option; of one without values, an empty one where it was given.
fn value_of<'a>(options: &'a Given, name: &str) -> Option<&'a str> {
    options.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
}

fn only(allowed: &[&str], options: &Given) -> Result<(), ArgError> {
    match options.iter().find(|(name, _)| !allowed.contains(name)) {
        Some((name, _)) => Err(ArgError::UnknownOption { option: format!("--{name}"), near: None }),
        None => Ok(()),
    }
}

fn number(option: &str, given: Option<&str>, default: u32) -> Result<u32, ArgError> {
    let Some(text) = given else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (1..=10_000).contains(number));
    number.ok_or_else(|| ArgError::BadValue { option: option.to_owned(), mend: "write a whole number from 1 to 10000" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understand(line: &str) -> Result<Command, ArgError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn user(line: &str) -> UserCommand {
        match understand(line) {
            Ok(Command::User(user, _)) => user,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn settings_are_flags_before_and_behind_the_command() {
        let wanted = Overrides {
            config: Some("a.toml".into()),
            settings: vec![("vm_base_dir", "/srv".to_owned()), ("tls", "off".to_owned())],
        };
        let line = "--config a.toml --vm-base-dir /srv serve --tls=off";
        assert_eq!(understand(line), Ok(Command::Serve(wanted.clone())));
        assert_eq!(understand(&line.replace("serve", "check")), Ok(Command::Check(wanted.clone())));
        assert_eq!(understand("check --telegram"), Ok(Command::CheckTelegram(Overrides::default())));
        assert!(understand("check --json").is_err() && understand("serve --telegram").is_err());
        let list = UserCommand::List { json: false };
        assert_eq!(understand(&line.replace("serve", "user list")), Ok(Command::User(list, wanted)));
    }

    #[test]
    fn every_user_command_is_understood() {
        let (email, who) = ("a@b.c".to_owned(), "a@b.c".to_owned());
        let add = UserCommand::Add { email, login: Some("ann".into()), role: Role::Teacher, password_stdin: true };
        assert_eq!(user("user add --email a@b.c --login ann --role teacher --password-stdin"), add);
        assert_eq!(user("user passwd a@b.c"), UserCommand::Passwd { who: who.clone(), password_stdin: false });
        assert_eq!(user("user promote a@b.c"), UserCommand::Promote { who: who.clone(), role: Role::Admin });
        assert_eq!(user("user promote a@b.c user"), UserCommand::Promote { who, role: Role::User });
        assert_eq!(user("user list --json"), UserCommand::List { json: true });
        assert_eq!(user("user invite"), UserCommand::Invite { uses: 1, days: 7, role: Role::User });
        let invite = UserCommand::Invite { uses: 30, days: 1, role: Role::Teacher };
        assert_eq!(user("user invite --uses 30 --days 1 --role teacher"), invite);
    }

    #[test]
    fn help_and_version_are_found_in_every_usual_way() {
        for line in ["version", "--version", "-V", "serve -V"] {
            assert_eq!(understand(line), Ok(Command::Version), "{line}");
        }
        for line in ["", "help", "--help", "-h"] {
            assert_eq!(understand(line), Ok(Command::Help(help::COMMANDS.to_owned())), "{line}");
        }
        for line in ["help user", "user --help", "user add -h"] {
            assert_eq!(understand(line), Ok(Command::Help(help::USER.to_owned())), "{line}");
        }
    }

    #[test]
    fn each_mistake_is_told_with_its_mend() {
        let cases = [
            ("sevre", "\"sevre\" is no command; did you mean serve?"),
            ("make-tea", "\"make-tea\" is no command; `vmshare help` lists them"),
            ("user ad", "\"ad\" is no command; did you mean add?"),
            ("serve --prot 1", "--prot is no option here; did you mean --port?"),
            ("serve --vm-basedir 1", "--vm-basedir is no option here; did you mean --vm-base-dir?"),
            ("serve -x", "-x is no option here; `vmshare help` lists them"),
            ("serve --json", "--json is no option here; `vmshare help` lists them"),
            ("serve --port", "--port has no value; write --port VALUE"),
            ("serve --port=", "--port has no value; write --port VALUE"),
            ("serve --config a --config b", "--config is given twice; remove one"),
            ("serve now", "a word is missing or too many; write `vmshare serve|check|version`"),
            ("user", "a word is missing or too many; write `vmshare user add|passwd|promote|list|invite`"),
            (
                "user passwd",
                "a word is missing or too many; write `vmshare user passwd EMAIL_OR_LOGIN [--password-stdin]`",
            ),
            ("user add --email a --email b", "--email is given twice; remove one"),
            ("user promote ann boss", "the value of role will not do; write user, teacher or admin"),
            ("user invite --uses 0", "the value of --uses will not do; write a whole number from 1 to 10000"),
        ];
        for (line, sentence) in cases {
            assert_eq!(understand(line).expect_err(line).to_string(), sentence, "{line}");
        }
    }

    #[test]
    fn a_secret_as_a_flag_is_refused_without_being_repeated() {
        for (flag, name) in
            [("secret-key", "SECRET_KEY"), ("database-url", "DATABASE_URL"), ("tg-bot-token", "TG_BOT_TOKEN")]
        {
            let error = understand(&format!("serve --{flag}=hunter2")).expect_err(flag).to_string();
            assert!(error.starts_with(&format!("{name} is a secret")) && !error.contains("hunter2"), "{error}");
        }
    }
}
