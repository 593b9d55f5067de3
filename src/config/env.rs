//! Settings from text: the process's environment and the file `.env` in the working folder.
//!
//! `.env` is what python-dotenv and docker read: `NAME=value` or `export NAME=value`, `#` starts a comment (after a
//! value only behind a blank), single quotes keep everything, double quotes know `\n \t \" \\ \$`. Nothing is expanded: a
//! `$` is a `$`. A name that is not ours stops the start, for it is a slip of the pen; so does one given twice.
//!
//! The process's environment belongs to everybody, so there only our names are read, and only `VMSHARE_*`, which is ours,
//! is checked for slips. An empty value is the same as none. A line is never quoted in an error.

use super::error::{ConfigError, Place};
use super::table::{Entry, Given, closest};
use super::top_settings;
use super::value::Raw;
use std::collections::BTreeMap;
use std::path::Path;

/// Names that are ours and not settings: where `vmshare.toml` is, and the password for `vmshare user add`.
pub(super) const CONFIG_FILE: &str = "VMSHARE_CONFIG";
/// Read by `vmshare user` where no terminal can ask; never kept.
pub const PASSWORD: &str = "VMSHARE_PASSWORD";

/// The process's environment. Names and values that are not UTF-8 get replacement characters, which no setting accepts.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    let words = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    };
    std::env::vars_os().map(words)
}

/// Names the test suite gives to itself and to what it starts (`VMSHARE_TEST_ISO`); no settings.
const OF_TESTS: &str = "VMSHARE_TEST_";

/// Takes our names out of the environment into `given`; answers `VMSHARE_CONFIG`, if it is set.
pub(super) fn from_process(
    given: &mut Given,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Option<String>, ConfigError> {
    let mut config = None;
    for (name, value) in environment {
        if name == CONFIG_FILE {
            config = Some(value).filter(|value| !value.is_empty());
        } else if let Some(path) = setting_named(&name) {
            if !value.is_empty() {
                given.insert(path, Entry { raw: Raw::Text(value), place: Place::Environment, name });
            }
        } else if name.starts_with("VMSHARE_") && name != PASSWORD && !name.starts_with(OF_TESTS) {
            return Err(unknown(&Place::Environment, &name));
        }
    }
    Ok(config)
}

/// Reads the text of a `.env` file into `given`; answers `VMSHARE_CONFIG`, if it is set.
pub(super) fn from_dotenv(
    given: &mut Given,
    text: &str,
    file: &str,
    folder: &Path,
) -> Result<Option<String>, ConfigError> {
    let mut config = None;
    let mut seen = BTreeMap::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line_number = index + 1;
        let syntax =
            |wrong: &str| ConfigError::Syntax { file: file.to_owned(), line: line_number, wrong: wrong.into() };
        let Some((name, value)) = assignment(line).map_err(syntax)? else { continue };
        let place = Place::Line { file: file.to_owned(), line: line_number, folder: folder.to_owned() };
        let path = setting_named(name);
        if path.is_none() && name != CONFIG_FILE && name != PASSWORD {
            return Err(unknown(&place, name));
        }
        if let Some(first) = seen.insert(name.to_owned(), line_number) {
            let (wrong, mend) = (format!("it is given on line {first} already"), "remove one of the two".to_owned());
            return Err(ConfigError::Setting { at: place.naming(name), wrong, mend });
        }
        if value.is_empty() {
            continue;
        }
        match path {
            Some(path) => given.insert(path, Entry { raw: Raw::Text(value), place, name: name.to_owned() }),
            None if name == CONFIG_FILE => config = Some(folder.join(value).to_string_lossy().into_owned()),
            None => {}
        }
    }
    Ok(config)
}

fn setting_named(name: &str) -> Option<String> {
    let is_upper = !name.bytes().any(|byte| byte.is_ascii_lowercase());
    let lower = name.to_ascii_lowercase();
    (is_upper && top_settings().any(|setting| setting.name == lower)).then_some(lower)
}

fn unknown(place: &Place, name: &str) -> ConfigError {
    let bare = name.strip_prefix("VMSHARE_").unwrap_or(name);
    let mend = if bare == "VM_PROFILES" {
        "write each profile as a table [profiles.NAME] in vmshare.toml".to_owned()
    } else if let Some(near) = closest(bare, top_settings().map(|setting| setting.name)) {
        format!("did you mean {}?", near.to_ascii_uppercase())
    } else if bare == "CONF" || bare.starts_with("CONFIG") {
        format!("did you mean {CONFIG_FILE}?")
    } else {
        "remove it, or see `vmshare serve --help` for the names".to_owned()
    };
    ConfigError::Setting { at: place.naming(name), wrong: "no setting has this name".to_owned(), mend }
}

/// The name and value on a line of `.env`, or `None` for a blank line or a comment.
fn assignment(line: &str) -> Result<Option<(&str, String)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let (name, value) = line.split_once('=').ok_or("this is not a setting; write NAME=value")?;
    let name = name.trim_end();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err("this is not a name; write NAME=value, the name in letters, digits and _");
    }
    Ok(Some((name, unquote(value.trim_start())?)))
}

fn unquote(value: &str) -> Result<String, &'static str> {
    let unclosed = "the quote is not closed on this line; close it";
    let (text, rest) = if let Some(inner) = value.strip_prefix('\'') {
        let (text, rest) = inner.split_once('\'').ok_or(unclosed)?;
        (text.to_owned(), rest)
    } else if let Some(inner) = value.strip_prefix('"') {
        double_quoted(inner).ok_or(unclosed)?
    } else {
        let comment = value
            .char_indices()
            .find(|(at, c)| *c == '#' && value[..*at].chars().next_back().is_none_or(char::is_whitespace));
        (value[..comment.map_or(value.len(), |(at, _)| at)].trim_end().to_owned(), "")
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        Ok(text)
    } else {
        Err("there is something behind the closing quote; remove it")
    }
}

fn double_quoted(inner: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((text, &inner[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                other @ ('"' | '\\' | '$') => text.push(other),
                other => text.extend(['\\', other]),
            },
            c => text.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_dotenv_reads_it() {
        let cases = [
            ("A=b", Some(("A", "b"))),
            ("  export A = b  ", Some(("A", "b"))),
            ("A=b # c", Some(("A", "b"))),
            ("A=b#c", Some(("A", "b#c"))),
            ("A=# c", Some(("A", ""))),
            ("A=", Some(("A", ""))),
            ("A='b # \"c\" \\n' # d", Some(("A", "b # \"c\" \\n"))),
            (r#"A="b \"c\" \\ \$x \d""#, Some(("A", r#"b "c" \ $x \d"#))),
            ("A=x=y", Some(("A", "x=y"))),
            ("# A=b", None),
            ("", None),
        ];
        for (line, wanted) in cases {
            let wanted = wanted.map(|(name, value)| (name, value.to_owned()));
            assert_eq!(assignment(line), Ok(wanted), "{line}");
        }
    }

    #[test]
    fn a_line_that_is_no_setting_is_refused() {
        for line in ["A", "=b", "A B=c", "A='b", "A=\"b", "A=\"b\\", "A='b' c", "ä=b"] {
            assert!(assignment(line).is_err(), "{line}");
        }
    }
}
