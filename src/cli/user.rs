//! `vmshare user add|passwd|promote|list|invite`: accounts, on the same database, whether a server runs or not.

use super::note;
use crate::config::Overrides;
use crate::config::cli_args::UserCommand;
use crate::db::{CliDb, invites, users};
use crate::proto::problem::Problem;
use crate::web::auth;
use crate::work::hash;
use data_encoding::BASE64URL_NOPAD;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};

/// Does what was asked.
///
/// # Errors
/// What is wrong with it, in one line.
pub(super) fn run(overrides: &Overrides, action: UserCommand) -> Result<(), String> {
    let config = super::load(overrides)?;
    super::serve::prepare_folders(&config.base_dir)?;
    let mut db = crate::db::open_for_cli(&super::db_settings(&config))?;
    match action {
        UserCommand::Add { email, login, role, password_stdin } => {
            add(&mut db, &email, login, role.as_str(), password_stdin)
        }
        UserCommand::Passwd { who, password_stdin } => passwd(&mut db, &who, password_stdin),
        UserCommand::Promote { who, role } => {
            let user = find(&mut db, &who)?;
            db.run(|c| {
                c.atomically(|c| {
                    users::set_role_now(c, &user.id, role.as_str())?;
                    note(c, "promote", &user.login, role.as_str())
                })
            })?;
            println!("{} is {} now", user.login, role.as_str());
            Ok(())
        }
        UserCommand::List { json } => list(&mut db, json),
        UserCommand::Invite { uses, days, role } => {
            let code = BASE64URL_NOPAD.encode(&crate::random::bytes::<9>());
            let new = invites::NewInvite {
                code: invites::code_hash(&code),
                role: role.as_str().to_owned(),
                uses,
                days,
                note: String::new(),
                by: None,
            };
            db.run(|c| {
                c.atomically(|c| {
                    invites::create_now(c, &new, 0)?;
                    note(c, "invite", role.as_str(), &format!("uses={uses} days={days}"))
                })
            })?;
            println!("{code}");
            Ok(())
        }
    }
}

fn add(db: &mut CliDb, email: &str, login: Option<String>, role: &str, stdin: bool) -> Result<(), String> {
    let email = auth::check_email(email).map_err(|p| p.detail)?;
    let login = match login {
        Some(login) => auth::check_login(&login).map_err(|p| p.detail)?,
        None => auth::login_from(&email),
    };
    let phc = new_password(stdin)?;
    let user = db.run(|c| {
        c.atomically(|c| {
            let user = users::create_now(c, &users::NewUser { email, login, role: role.to_owned(), phc })?;
            note(c, "add user", &user.login, role)?;
            Ok(user)
        })
    })?;
    println!("added {} ({}), {}", user.login, user.email, user.role);
    Ok(())
}

fn passwd(db: &mut CliDb, who: &str, stdin: bool) -> Result<(), String> {
    let user = find(db, who)?;
    let phc = new_password(stdin)?;
    db.run(|c| {
        c.atomically(|c| {
            users::set_password_now(c, &user.id, &phc)?;
            note(c, "password", &user.login, "")
        })
    })?;
    println!("password of {} changed; its sessions are ended", user.login);
    Ok(())
}

fn list(db: &mut CliDb, as_json: bool) -> Result<(), String> {
    let users = db.run(users::list_now)?;
    if as_json {
        for user in users {
            let line = json!({
                "id": user.id, "email": user.email, "login": user.login, "role": user.role,
                "disabled": user.disabled, "created_at": user.created_at.to_string(),
            });
            println!("{line}");
        }
        return Ok(());
    }
    if users.is_empty() {
        println!("no accounts yet: vmshare user add --email you@example.org");
    }
    for user in users {
        println!("{:12}  {:24}  {:8}  {}", user.id, user.login, user.role, user.email);
    }
    Ok(())
}

pub(super) fn find(db: &mut CliDb, who: &str) -> Result<users::User, String> {
    let wanted = who.trim().to_lowercase();
    let found = db.run(|c| users::by_email_or_login_now(c, &wanted))?;
    found.map(|(user, _)| user).ok_or_else(|| format!("there is no account {who:?}; vmshare user list shows them"))
}

/// From standard input, from `VMSHARE_PASSWORD`, or typed; never from the command line, where others can read it.
fn new_password(stdin: bool) -> Result<String, String> {
    let password = if stdin {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(|e| e.to_string())?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    } else if let Ok(password) = std::env::var(crate::config::PASSWORD) {
        password
    } else if std::io::stdin().is_terminal() {
        eprint!("Password (is shown while you type): ");
        let _ = std::io::stderr().flush();
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(|e| e.to_string())?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        return Err("no password: use --password-stdin, or set VMSHARE_PASSWORD".into());
    };
    let password =
        auth::check_password("password", &password).map_err(|p: Problem| format!("the password {}", p.detail))?;
    hash::phc(&password).ok_or_else(|| "there is no memory to hash the password".to_owned())
}
