//! Settings from `vmshare.toml`.
//!
//! The file is parsed to a tree that knows its positions, laid flat (`limits.max_connections`) and checked for keys nobody
//! knows, each with the line it stands on. The types are checked later, where the default and the range are known.
//! Only the description of a syntax error is passed on, never the line itself: it might hold a secret.

use super::error::{ConfigError, Place};
use super::table::{Entry, Given, Setting, closest};
use super::value::Raw;
use super::{reference, top_settings};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// What every profile's table and the table of tables are called.
const PROFILES: &str = "profiles";

struct Source<'a> {
    text: &'a str,
    file: &'a str,
    folder: &'a Path,
}

/// Reads the text of a `vmshare.toml` into `given`. `file` is how errors name it; relative paths start at `folder`.
pub(super) fn from_toml(given: &mut Given, text: &str, file: &str, folder: &Path) -> Result<(), ConfigError> {
    let source = Source { text, file, folder };
    let tree = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        file: file.to_owned(),
        line: source.line(error.span().map_or(0, |span| span.start)),
        wrong: format!("this is not TOML: {}", error.message()),
    })?;
    for (key, value) in tree.get_ref() {
        let (name, place) = (key.get_ref().as_ref(), source.place(key.span().start));
        match (name, value.get_ref()) {
            (PROFILES, DeValue::Table(profiles)) => {
                for (key, value) in profiles {
                    let (name, place) = (key.get_ref(), source.place(key.span().start));
                    check_profile_name(name, &place)?;
                    section(given, &source, &format!("{PROFILES}.{name}"), "profiles.NAME", value.get_ref(), place)?;
                }
            }
            (PROFILES, _) => return Err(not_a_table(&place, name, "profiles.custom")),
            ("alerts" | "limits", value) => section(given, &source, name, name, value, place)?,
            (name, value) => {
                // As the environment has it, too.
                let shouted = !name.bytes().any(|byte| byte.is_ascii_lowercase());
                let setting = if shouted { name.to_ascii_lowercase() } else { name.to_owned() };
                if !top_settings().any(|known| known.name == setting) {
                    return Err(unknown_key(&place, name, "", name));
                }
                if shouted && tree.get_ref().keys().any(|key| key.get_ref().as_ref() == setting) {
                    let (wrong, mend) = (format!("it is given as {setting} too"), "remove one of the two".to_owned());
                    return Err(ConfigError::Setting { at: place.naming(name), wrong, mend });
                }
                given.insert(setting, Entry { raw: raw(value), place, name: name.to_owned() });
            }
        }
    }
    Ok(())
}

impl Source<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    fn place(&self, offset: usize) -> Place {
        Place::Line { file: self.file.to_owned(), line: self.line(offset), folder: self.folder.to_owned() }
    }
}

/// Lays one table flat. `path` is its name, `like` the name it has in the reference.
fn section(
    given: &mut Given,
    source: &Source<'_>,
    path: &str,
    like: &str,
    value: &DeValue<'_>,
    place: Place,
) -> Result<(), ConfigError> {
    let DeValue::Table(table) = value else { return Err(not_a_table(&place, path, path)) };
    for (key, value) in table {
        let (name, place) = (key.get_ref().as_ref(), source.place(key.span().start));
        let full = format!("{path}.{name}");
        if !reference().any(|setting| setting.section == like && setting.name == name) {
            return Err(unknown_key(&place, &full, like, name));
        }
        given.insert(full.clone(), Entry { raw: raw(value.get_ref()), place, name: full });
    }
    given.sections.insert(path.to_owned(), place);
    Ok(())
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Quoted(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("it is a number of more than 64 bits"), Raw::Integer),
        DeValue::Float(number) => Raw::Decimal(number.as_str().to_owned()),
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Datetime(_) => Raw::Other("it is a date or a time"),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Table(table) => {
            Raw::Table(table.iter().map(|(key, value)| (key.get_ref().to_string(), raw(value.get_ref()))).collect())
        }
    }
}

fn check_profile_name(name: &str, place: &Place) -> Result<(), ConfigError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if (1..=32).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(ConfigError::Setting {
        at: place.naming(&format!("{PROFILES}.{}", name.escape_debug())),
        wrong: "this cannot be the name of a profile".to_owned(),
        mend: "write up to 32 of a-z, 0-9, - and _".to_owned(),
    })
}

fn not_a_table(place: &Place, name: &str, header: &str) -> ConfigError {
    let (wrong, mend) = ("it is a table of settings".to_owned(), format!("write [{header}] and the settings below it"));
    ConfigError::Setting { at: place.naming(name), wrong, mend }
}

fn unknown_key(place: &Place, full: &str, section: &str, name: &str) -> ConfigError {
    let here = reference().filter(|setting| setting.section == section).map(|setting| setting.name);
    let tables = [PROFILES, "alerts", "limits"].into_iter().filter(|_| section.is_empty());
    let elsewhere = |setting: &&Setting| setting.section != section && setting.name == name;
    let mend = if let Some(near) = closest(name, here.chain(tables)) {
        format!("did you mean {near}?")
    } else if let Some(setting) = reference().find(elsewhere) {
        match setting.section {
            "" => format!("write {name} at the top of the file, above the first [table]"),
            table => format!("write {name} below [{table}]"),
        }
    } else {
        "remove it, or see `vmshare serve --help` for the names".to_owned()
    };
    let wrong = "no setting has this name".to_owned();
    ConfigError::Setting { at: place.naming(&full.escape_debug().to_string()), wrong, mend }
}
