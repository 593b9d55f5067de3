//! `vmshare image …`: what is asked for.

use super::{ArgError, Given, only, unknown_command, value_of};
use std::path::PathBuf;

/// What to do about images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageCommand {
    /// List those of the shared library.
    List {
        /// Whose to list too: an e-mail address or log-in name.
        user: Option<String>,
        /// As JSON.
        json: bool,
    },
    /// Copy a file into the shared library.
    Add {
        /// The file.
        file: PathBuf,
        /// What it is called there; the file's name if left out.
        name: Option<String>,
        /// What it is, in a word; the file's ending says so if left out.
        format: Option<String>,
    },
    /// Say what a file is and whether it can be used.
    Check {
        /// The file.
        file: PathBuf,
        /// What it is, in a word.
        format: Option<String>,
    },
    /// Remove one from the shared library.
    Remove {
        /// Its name there.
        name: String,
    },
    /// List the distributions that are known.
    Known {
        /// As JSON.
        json: bool,
    },
}

const COMMANDS: [&str; 5] = ["list", "add", "check", "remove", "known"];
const FORMATS: [&str; 3] = ["iso", "qcow2", "raw"];

/// Understands what stands behind `vmshare image`.
pub(super) fn command(words: &[&str], options: &Given) -> Result<ImageCommand, ArgError> {
    let text = |name| value_of(options, name).map(str::to_owned);
    let json = value_of(options, "json").is_some();
    let format = || match text("format") {
        Some(word) if !FORMATS.contains(&word.as_str()) => {
            Err(ArgError::BadValue { option: "--format".into(), mend: "write iso, qcow2 or raw" })
        }
        format => Ok(format),
    };
    match words {
        ["list"] => {
            only(&["user", "json"], options)?;
            Ok(ImageCommand::List { user: text("user"), json })
        }
        ["add", file] => {
            only(&["name", "format"], options)?;
            Ok(ImageCommand::Add { file: file.into(), name: text("name"), format: format()? })
        }
        ["check", file] => {
            only(&["format"], options)?;
            Ok(ImageCommand::Check { file: file.into(), format: format()? })
        }
        ["remove", name] => {
            only(&[], options)?;
            Ok(ImageCommand::Remove { name: (*name).to_owned() })
        }
        ["known"] => {
            only(&["json"], options)?;
            Ok(ImageCommand::Known { json })
        }
        ["list", ..] => Err(ArgError::Usage { usage: "vmshare image list [--user EMAIL_OR_LOGIN] [--json]" }),
        ["add", ..] => Err(ArgError::Usage { usage: "vmshare image add FILE [--name NAME] [--format iso|qcow2|raw]" }),
        ["check", ..] => Err(ArgError::Usage { usage: "vmshare image check FILE [--format iso|qcow2|raw]" }),
        ["remove", ..] => Err(ArgError::Usage { usage: "vmshare image remove NAME" }),
        ["known", ..] => Err(ArgError::Usage { usage: "vmshare image known [--json]" }),
        [] => Err(ArgError::Usage { usage: "vmshare image list|add|check|remove|known" }),
        [word, ..] => Err(unknown_command(word, &COMMANDS)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, parse};
    use super::*;

    fn understand(line: &str) -> Result<ImageCommand, String> {
        match parse(line.split_whitespace().map(Into::into)) {
            Ok(Command::Image(command, _)) => Ok(command),
            Ok(other) => panic!("{line}: {other:?}"),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn every_image_command_is_understood_and_each_mistake_told() {
        let user = Some("ann".to_owned());
        assert_eq!(understand("image list --user ann"), Ok(ImageCommand::List { user, json: false }));
        let add = ImageCommand::Add { file: "a.img".into(), name: Some("b".into()), format: Some("raw".into()) };
        assert_eq!(understand("image add a.img --name b --format raw"), Ok(add));
        assert_eq!(understand("image check a.iso"), Ok(ImageCommand::Check { file: "a.iso".into(), format: None }));
        assert_eq!(understand("image remove a.iso"), Ok(ImageCommand::Remove { name: "a.iso".into() }));
        assert_eq!(understand("image known --json"), Ok(ImageCommand::Known { json: true }));
        for (line, words) in [
            ("image", "write `vmshare image list|add|check|remove|known`"),
            ("image add", "write `vmshare image add FILE"),
            ("image add a --format vdi", "the value of --format will not do; write iso, qcow2 or raw"),
            ("image remove a --user b", "--user is no option here"),
            ("image chekc a", "did you mean check?"),
        ] {
            let told = understand(line).expect_err(line);
            assert!(told.contains(words), "{line}: {told}");
        }
    }
}
