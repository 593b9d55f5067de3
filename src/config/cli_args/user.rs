//! `vmshare user …`: what is asked for.

use super::{ArgError, Given, number, only, unknown_command, value_of};

/// What to do about accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserCommand {
    /// Make an account.
    Add {
        /// The e-mail address.
        email: String,
        /// The log-in name; made from the address if left out.
        login: Option<String>,
        /// What they may do.
        role: Role,
        /// Read the password from standard input.
        password_stdin: bool,
    },
    /// Set a password.
    Passwd {
        /// E-mail address or log-in name.
        who: String,
        /// Read the password from standard input.
        password_stdin: bool,
    },
    /// Give a role.
    Promote {
        /// E-mail address or log-in name.
        who: String,
        /// The new role.
        role: Role,
    },
    /// List all accounts.
    List {
        /// As JSON.
        json: bool,
    },
    /// Make an invitation.
    Invite {
        /// How many people may use it.
        uses: u32,
        /// How many days it is good for.
        days: u32,
        /// The role it gives.
        role: Role,
    },
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Have a VM.
    User,
    /// Also invite, and see the class's VMs.
    Teacher,
    /// Everything.
    Admin,
}

impl Role {
    /// The word for it in the database and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Teacher => "teacher",
            Self::Admin => "admin",
        }
    }

    pub(super) fn named(word: &str) -> Result<Self, ArgError> {
        let role = [Self::User, Self::Teacher, Self::Admin].into_iter().find(|role| role.as_str() == word);
        role.ok_or_else(|| ArgError::BadValue { option: "role".into(), mend: "write user, teacher or admin" })
    }
}

const COMMANDS: [&str; 5] = ["add", "passwd", "promote", "list", "invite"];

/// Understands what stands behind `vmshare user`.
pub(super) fn command(words: &[&str], options: &Given) -> Result<UserCommand, ArgError> {
    let find = |name| value_of(options, name);
    let role = |default| find("role").map_or(Ok(default), Role::named);
    let password_stdin = find("password-stdin").is_some();
    match words {
        ["add"] => {
            only(&["email", "login", "role", "password-stdin"], options)?;
            let usage = "vmshare user add --email EMAIL [--login NAME] [--role ROLE] [--password-stdin]";
            let email = find("email").ok_or(ArgError::Usage { usage })?.to_owned();
            let login = find("login").map(str::to_owned);
            Ok(UserCommand::Add { email, login, role: role(Role::User)?, password_stdin })
        }
        ["passwd", who] => {
            only(&["password-stdin"], options)?;
            Ok(UserCommand::Passwd { who: (*who).to_owned(), password_stdin })
        }
        ["promote", who] => {
            only(&["role"], options)?;
            Ok(UserCommand::Promote { who: (*who).to_owned(), role: role(Role::Admin)? })
        }
        ["promote", who, word] => {
            only(&[], options)?;
            Ok(UserCommand::Promote { who: (*who).to_owned(), role: Role::named(word)? })
        }
        ["list"] => {
            only(&["json"], options)?;
            Ok(UserCommand::List { json: find("json").is_some() })
        }
        ["invite"] => {
            only(&["uses", "days", "role"], options)?;
            let uses = number("--uses", find("uses"), 1)?;
            Ok(UserCommand::Invite { uses, days: number("--days", find("days"), 7)?, role: role(Role::User)? })
        }
        ["passwd", ..] => Err(ArgError::Usage { usage: "vmshare user passwd EMAIL_OR_LOGIN [--password-stdin]" }),
        ["promote", ..] => Err(ArgError::Usage { usage: "vmshare user promote EMAIL_OR_LOGIN [user|teacher|admin]" }),
        [] => Err(ArgError::Usage { usage: "vmshare user add|passwd|promote|list|invite" }),
        [known, ..] if COMMANDS.contains(known) => {
            Err(ArgError::Usage { usage: "vmshare user add|list|invite [OPTIONS]" })
        }
        [word, ..] => Err(unknown_command(word, &COMMANDS)),
    }
}
