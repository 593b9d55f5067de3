//! Where a setting came from, and what is said when it will not do.
//!
//! Every refusal has the same shape, `place: name: what is wrong; what to write instead`, so that a person can open the
//! file at the line and be done. The value itself is quoted only by the parsers of settings that are not secrets, and a
//! line of a file is never quoted: it might hold a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A flag of the command line; its name there, `--port`, says so.
    Flag,
    /// The process's environment.
    Environment,
    /// A line (from 1) of `.env` or `vmshare.toml`; relative paths on it start at `folder`.
    Line {
        /// The file as it is shown to people.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// The folder the file lies in.
        folder: PathBuf,
    },
}

impl Place {
    /// The folder at which relative paths start, if it is not the working folder.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Line { folder, .. } => Some(folder),
            _ => None,
        }
    }

    /// `place: name`, as errors and warnings begin.
    pub(super) fn naming(&self, name: &str) -> String {
        match self {
            Self::Flag => name.to_owned(),
            Self::Environment => format!("environment: {name}"),
            Self::Line { file, line, .. } => format!("{file}:{line}: {name}"),
        }
    }
}

/// Why the configuration was refused. Display is one line that names the place and the mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A setting is unknown, of the wrong type, out of range, or contradicts another.
    Setting {
        /// Where it was given and its name there: `vmshare.toml:12: port`.
        at: String,
        /// What is wrong with it.
        wrong: String,
        /// What to write instead.
        mend: String,
    },
    /// A file is not TOML, or a line of `.env` is not `NAME=value`.
    Syntax {
        /// The file as it is shown to people.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong and what to write instead.
        wrong: String,
    },
    /// A file that was asked for, or that is there, cannot be read.
    Unreadable {
        /// The file as it is shown to people.
        file: String,
        /// Who asked for it, or that it was found, and what the system said.
        why: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting { at, wrong, mend } => write!(f, "{at}: {wrong}; {mend}"),
            Self::Syntax { file, line, wrong } => write!(f, "{file}:{line}: {wrong}"),
            Self::Unreadable { file, why } => write!(f, "{file}: {why}"),
        }
    }
}

impl std::error::Error for ConfigError {}
