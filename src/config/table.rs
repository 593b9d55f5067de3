//! The table of settings: one definition per setting, from which come the struct field, its default, its range, the
//! help text, the names in the environment and on the command line, and the check for unknown keys.
//!
//! `settings!` takes `/// meaning` `name: type = "default as text", range;` and makes a struct with these fields, a
//! `TABLE` that describes them and a `read` that fills them. The default goes through the same parser as what people
//! write, so a default that its own range refuses fails the first test.

use super::error::{ConfigError, Place};
use super::value::{Around, Raw, Value};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// One line of the configuration reference.
#[derive(Debug)]
pub struct Setting {
    /// The table of `vmshare.toml` it stands in: empty for the top, `profiles.NAME`, `alerts`, `limits`.
    pub section: &'static str,
    /// Its key in that table.
    pub name: &'static str,
    /// The default as text; empty where it is unset.
    pub default: &'static str,
    /// One sentence.
    pub meaning: &'static str,
    /// How a value looks: `NUMBER`, `PATH`, `open|invite|closed`.
    pub shape: &'static str,
    /// Never shown and never a flag.
    pub secret: bool,
}

impl Setting {
    /// The name in the environment and in `.env`; only settings at the top have one.
    #[must_use]
    pub fn environment_name(&self) -> Option<String> {
        self.section.is_empty().then(|| self.name.to_ascii_uppercase())
    }

    /// The flag, `--http-port`; secrets have none, for every user of the host can list the arguments of a process.
    #[must_use]
    pub fn flag(&self) -> Option<String> {
        (self.section.is_empty() && !self.secret).then(|| format!("--{}", self.name.replace('_', "-")))
    }

    /// The name in `vmshare.toml`, with its table.
    #[must_use]
    pub fn path(&self) -> String {
        join(self.section, self.name)
    }
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// A value as it was given, with its place.
pub(super) struct Entry {
    pub(super) raw: Raw,
    pub(super) place: Place,
    /// The name as it was written there: `PORT` in the environment, `port` in the file.
    pub(super) name: String,
}

/// Everything that was given, by the name it has in `vmshare.toml`; a later `insert` wins over an earlier one.
pub(super) struct Given {
    entries: BTreeMap<String, Entry>,
    /// Tables that were opened (`alerts`, `profiles.NAME`), even if empty.
    pub(super) sections: BTreeMap<String, Place>,
    cwd: PathBuf,
}

impl Given {
    pub(super) fn new(cwd: &Path) -> Self {
        Self { entries: BTreeMap::new(), sections: BTreeMap::new(), cwd: cwd.to_owned() }
    }

    pub(super) fn insert(&mut self, path: String, entry: Entry) {
        self.entries.insert(path, entry);
    }

    /// Puts everything in `stronger` over what is here.
    pub(super) fn overlay(&mut self, stronger: Self) {
        self.entries.extend(stronger.entries);
        self.sections.extend(stronger.sections);
    }

    pub(super) fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The folder at which a relative path in the setting `path` starts.
    pub(super) fn folder(&self, path: &str) -> &Path {
        self.entry(path).and_then(|entry| entry.place.folder()).unwrap_or(&self.cwd)
    }

    pub(super) fn read<T: Value>(
        &self,
        section: &str,
        name: &str,
        default: &str,
        range: RangeInclusive<u64>,
    ) -> Result<T, ConfigError> {
        let path = join(section, name);
        let around = Around { folder: self.folder(&path), range };
        let default = Raw::Text(default.to_owned());
        let raw = self.entry(&path).map_or(&default, |entry| &entry.raw);
        T::parse(raw, &around).map_err(|bad| self.refuse(&path, bad.wrong, bad.mend))
    }

    /// The refusal of the setting `path`, wherever it was given.
    pub(super) fn refuse(&self, path: &str, wrong: impl Into<String>, mend: impl Into<String>) -> ConfigError {
        ConfigError::Setting { at: self.at(path), wrong: wrong.into(), mend: mend.into() }
    }

    /// A warning about the setting `path`.
    pub(super) fn warning(&self, path: &str, text: &str) -> String {
        format!("{}: {text}", self.at(path))
    }

    /// The place and name of the setting `path`; the name alone if it is at its default.
    fn at(&self, path: &str) -> String {
        self.entry(path).map_or_else(|| path.to_owned(), |entry| entry.place.naming(&entry.name))
    }
}

/// See the top of the file.
macro_rules! settings {
    (@range) => { 0..=u64::MAX };
    (@range $range:expr) => { $range };
    ($(#[$outer:meta])* $vis:vis struct $Name:ident in $section:literal {
        $( #[doc = $meaning:literal] $field:ident : $type:ty = $default:literal $(, $range:expr)? ; )*
    }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $Name { $( #[doc = $meaning] pub $field: $type, )* }

        impl $Name {
            pub(super) const TABLE: &'static [$crate::config::table::Setting] = &[ $(
                $crate::config::table::Setting {
                    section: $section,
                    name: stringify!($field),
                    default: $default,
                    meaning: $meaning.trim_ascii(),
                    shape: <$type as $crate::config::value::Value>::SHAPE,
                    secret: <$type as $crate::config::value::Value>::SECRET,
                },
            )* ];

            pub(super) fn read(
                given: &$crate::config::table::Given,
                section: &str,
            ) -> Result<Self, $crate::config::error::ConfigError> {
                Ok(Self { $(
                    $field: given.read(
                        section,
                        stringify!($field),
                        $default,
                        $crate::config::table::settings!(@range $($range)?),
                    )?,
                )* })
            }
        }
    };
}
pub(super) use settings;

/// The candidate that `word` was probably meant to be, if one is near enough.
pub(super) fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let near = candidates.map(|candidate| (distance(&word, &candidate.to_ascii_lowercase()), candidate));
    let allowed = 1 + word.len() / 4;
    near.filter(|(far, _)| *far <= allowed).min_by_key(|(far, _)| *far).map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: how many letters must be put in, taken out or changed.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.chars().enumerate() {
            let cost = (diagonal + usize::from(a != b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_name_that_was_meant() {
        let names = ["port", "http_port", "max_connections", "secret_key"];
        let find = |word| closest(word, names.into_iter());
        assert_eq!(find("prot"), Some("port"));
        assert_eq!(find("max_conections"), Some("max_connections"));
        assert_eq!(find("SECRET-KEY"), Some("secret_key"));
        assert_eq!(find("colour"), None);
    }

    #[test]
    fn distance_counts_letters() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
