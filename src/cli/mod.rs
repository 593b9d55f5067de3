//! The command line: one file per subcommand; parsing is `config::cli_args`.

mod check;
mod clean;
mod image;
mod serve;
mod user;
mod vm;

use crate::config::cli_args::{self, Command};
use crate::config::{self, Config, Overrides};
use crate::db::{Conn, Error, Settings, events};
use std::process::ExitCode;

/// Runs the command that the arguments ask for.
#[must_use]
pub fn main() -> ExitCode {
    crate::net::tls::use_ring();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !crate::log::is_closed_output(info) {
            usual(info);
        }
    }));
    let result = match cli_args::parse(std::env::args_os().skip(1)) {
        Err(error) => {
            eprintln!("vmshare: {error}");
            return ExitCode::from(2);
        }
        Ok(Command::Help(text)) => {
            print!("{text}");
            Ok(())
        }
        Ok(Command::Version) => {
            println!("vmshare {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Ok(Command::Serve(overrides)) => serve::run(&overrides),
        Ok(Command::Check(overrides)) => check::run(&overrides),
        Ok(Command::CheckTelegram(overrides)) => check::telegram(&overrides),
        Ok(Command::Clean { dry_run, overrides }) => clean::run(&overrides, dry_run),
        Ok(Command::User(command, overrides)) => user::run(&overrides, command),
        Ok(Command::Vm(command, overrides)) => vm::run(&overrides, command),
        Ok(Command::Image(command, overrides)) => image::run(&overrides, command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("vmshare: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the settings, starts the log, and says what is odd about them.
fn load(overrides: &Overrides) -> Result<Config, String> {
    let cwd = std::env::current_dir().map_err(|e| format!("no working folder: {e}"))?;
    let (config, warnings) = Config::load(overrides, config::process_environment(), &cwd).map_err(|e| e.to_string())?;
    crate::log::init(&config.log);
    for secret in config.secrets() {
        crate::log::register_secret(&secret);
    }
    for warning in warnings {
        log::warn!("{warning}");
    }
    Ok(config)
}

fn db_settings(config: &Config) -> Settings {
    Settings {
        url: config.database_url.as_ref().map(|url| url.reveal().to_owned()),
        base_dir: config.base_dir.clone(),
        postgres_bin_dir: config.postgres_bin_dir.clone(),
        queue: config.limits.db_queue,
        connect_timeout: serve::CONNECT,
    }
}

/// A line in the audit trail: who has this host's shell is no account of ours.
fn note(conn: &mut Conn, action: &str, target: &str, detail: &str) -> Result<(), Error> {
    events::audit_now(conn, "command line", action, target, detail)
}

/// For a terminal: what guests and file names have in them must not steer it.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
