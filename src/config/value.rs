//! From what was written to a typed value: one trait, one impl per type a setting can have.
//!
//! A value arrives as `Raw::Text` (environment, `.env`, flags and the defaults in the table, where everything is text)
//! or as one of TOML's types, which must then be the right one: `port = "9000"` is refused, because a file that is
//! half typed hides mistakes. Impls return what is wrong and the mend; the caller adds the place.
//!
//! Must not: read files, look at other settings, or quote the value of a `Secret`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A value as it was written.
#[derive(Clone)]
pub(super) enum Raw {
    /// From a place where everything is text; empty means "not set".
    Text(String),
    /// A TOML string.
    Quoted(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML number with a point, as it is written.
    Decimal(String),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array.
    List(Vec<Self>),
    /// A TOML table.
    Table(Vec<(String, Self)>),
    /// A TOML type no setting has, named for the error.
    Other(&'static str),
}

/// What is wrong with a value and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) wrong: String,
    pub(super) mend: String,
}

impl Wrong {
    pub(super) fn new(wrong: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { wrong: wrong.into(), mend: mend.into() }
    }
}

/// What a parser may know besides the value.
pub(super) struct Around<'a> {
    /// Relative paths start here.
    pub(super) folder: &'a Path,
    /// The whole numbers that will do.
    pub(super) range: RangeInclusive<u64>,
}

/// A type a setting can have.
pub(super) trait Value: Sized {
    /// How the help names such a value: `NUMBER`, `open|closed`.
    const SHAPE: &'static str;
    /// Never shown, never a flag.
    const SECRET: bool = false;
    fn parse(raw: &Raw, around: &Around<'_>) -> Result<Self, Wrong>;
}

impl Raw {
    fn is_empty_text(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "it is plain text",
            Self::Quoted(_) => "it is a string",
            Self::Integer(_) => "it is a number",
            Self::Decimal(_) => "it is a number with a point",
            Self::Boolean(_) => "it is true or false",
            Self::List(_) => "it is a list",
            Self::Table(_) => "it is a table",
            Self::Other(kind) => kind,
        }
    }

    /// The text of a value that must be a string.
    pub(super) fn text(&self, mend: &str) -> Result<&str, Wrong> {
        match self {
            Self::Text(text) | Self::Quoted(text) if text.trim().is_empty() => Err(Wrong::new("it is empty", mend)),
            Self::Text(text) | Self::Quoted(text) => Ok(text),
            other => Err(Wrong::new(other.kind(), mend)),
        }
    }

    /// The items of a list: a TOML array, or text cut at commas with or without the brackets.
    pub(super) fn items(&self, mend: &str) -> Result<Vec<Self>, Wrong> {
        match self {
            Self::List(items) => Ok(items.clone()),
            Self::Text(text) => {
                let inner = text.trim();
                let inner = inner.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(inner);
                let words = inner.split(',').map(|word| word.trim().trim_matches('"'));
                Ok(words.filter(|word| !word.is_empty()).map(|word| Self::Text(word.to_owned())).collect())
            }
            other => Err(Wrong::new(other.kind(), mend)),
        }
    }
}

fn whole_number(raw: &Raw, range: &RangeInclusive<u64>) -> Result<u64, Wrong> {
    let mend = format!("write a whole number from {} to {}", range.start(), range.end());
    let number = match raw {
        Raw::Integer(number) => i128::from(*number),
        Raw::Text(text) => {
            text.trim().parse().map_err(|_| Wrong::new(format!("{text:?} is not a whole number"), mend.as_str()))?
        }
        Raw::Quoted(_) => return Err(Wrong::new(raw.kind(), format!("{mend}, without quotes"))),
        other => return Err(Wrong::new(other.kind(), mend)),
    };
    match u64::try_from(number) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(Wrong::new(format!("{number} is out of range"), mend)),
    }
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl Value for $type {
            const SHAPE: &'static str = "NUMBER";
            fn parse(raw: &Raw, around: &Around<'_>) -> Result<Self, Wrong> {
                let largest = u64::try_from(Self::MAX).unwrap_or(u64::MAX).min(*around.range.end());
                let number = whole_number(raw, &(*around.range.start()..=largest))?;
                Self::try_from(number).map_err(|_| Wrong::new("it is out of range", format!("write at most {largest}")))
            }
        }
    )*};
}
whole_numbers!(u16, u32, u64, usize);

/// A time in minutes, with a point where parts of one are meant; kept in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Minutes(Duration);

impl Minutes {
    /// The time; `None` for 0.
    pub(super) fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl Value for Minutes {
    const SHAPE: &'static str = "MINUTES";
    fn parse(raw: &Raw, around: &Around<'_>) -> Result<Self, Wrong> {
        let mend = format!("write a number of minutes from {} to {}", around.range.start(), around.range.end());
        let text = match raw {
            Raw::Integer(number) => number.to_string(),
            Raw::Decimal(text) | Raw::Text(text) => text.trim().replace('_', ""),
            Raw::Quoted(_) => return Err(Wrong::new(raw.kind(), format!("{mend}, without quotes"))),
            other => return Err(Wrong::new(other.kind(), mend)),
        };
        let wrong = |what: &str| Wrong::new(format!("{text} {what}"), mend.as_str());
        let minutes: f64 = text.parse().map_err(|_| wrong("is not a number"))?;
        let seconds = Duration::try_from_secs_f64(minutes * 60.0).map_err(|_| wrong("is out of range"))?;
        // Rounded up: what is more than nothing must not become "never".
        let whole = Duration::from_millis(u64::try_from(seconds.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
        let edge = |minutes: &u64| Duration::from_secs(minutes.saturating_mul(60));
        let fits = (edge(around.range.start())..=edge(around.range.end())).contains(&whole);
        if fits { Ok(Self(whole)) } else { Err(wrong("is out of range")) }
    }
}

impl Value for bool {
    const SHAPE: &'static str = "true|false";
    fn parse(raw: &Raw, _: &Around<'_>) -> Result<Self, Wrong> {
        match raw {
            Raw::Boolean(value) => Ok(*value),
            Raw::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(true),
                "false" | "no" | "off" | "0" => Ok(false),
                _ => Err(Wrong::new(format!("{text:?} is neither true nor false"), "write true or false")),
            },
            Raw::Quoted(_) => Err(Wrong::new(raw.kind(), "write true or false, without quotes")),
            other => Err(Wrong::new(other.kind(), "write true or false")),
        }
    }
}

impl Value for String {
    const SHAPE: &'static str = "TEXT";
    fn parse(raw: &Raw, _: &Around<'_>) -> Result<Self, Wrong> {
        let text = raw.text("write some text in quotes, or remove the line")?;
        if text.chars().any(char::is_control) {
            return Err(Wrong::new("it has a control character in it", "write plain text"));
        }
        Ok(text.to_owned())
    }
}

impl Value for PathBuf {
    const SHAPE: &'static str = "PATH";
    fn parse(raw: &Raw, around: &Around<'_>) -> Result<Self, Wrong> {
        let text = raw.text("write a path, or remove the line")?;
        if text.contains('\0') {
            return Err(Wrong::new("it has a NUL in it", "write a path"));
        }
        Ok(around.folder.join(text))
    }
}

/// A program: a path, or a name that is looked for on PATH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program(pub(super) PathBuf);

impl Value for Program {
    const SHAPE: &'static str = "PROGRAM";
    fn parse(raw: &Raw, around: &Around<'_>) -> Result<Self, Wrong> {
        let path = PathBuf::parse(raw, around)?;
        let name = raw.text("write a path or a name").ok().filter(|text| !text.contains('/'));
        Ok(Self(name.map_or(path, PathBuf::from)))
    }
}

impl Value for IpAddr {
    const SHAPE: &'static str = "ADDRESS";
    fn parse(raw: &Raw, _: &Around<'_>) -> Result<Self, Wrong> {
        let mend = "write an address such as 0.0.0.0, 127.0.0.1 or ::";
        let text = raw.text(mend)?.trim();
        let text = if text == "localhost" { "127.0.0.1" } else { text };
        text.parse().map_err(|_| Wrong::new(format!("{text:?} is not an IP address"), mend))
    }
}

/// An unset setting is one whose text is empty.
impl<T: Value> Value for Option<T> {
    const SHAPE: &'static str = T::SHAPE;
    const SECRET: bool = T::SECRET;
    fn parse(raw: &Raw, around: &Around<'_>) -> Result<Self, Wrong> {
        if raw.is_empty_text() { Ok(None) } else { T::parse(raw, around).map(Some) }
    }
}

impl<T: Value> Value for Vec<T> {
    const SHAPE: &'static str = T::SHAPE;
    fn parse(raw: &Raw, around: &Around<'_>) -> Result<Self, Wrong> {
        raw.items("write a list: [\"…\", \"…\"]")?.iter().map(|item| T::parse(item, around)).collect()
    }
}

/// A range of ports, both ends included.
impl Value for RangeInclusive<u16> {
    const SHAPE: &'static str = "[FIRST, LAST]";
    fn parse(raw: &Raw, around: &Around<'_>) -> Result<Self, Wrong> {
        let mend = "write the first and the last port, such as [5901, 5999]";
        let items = raw.items(mend)?;
        let [first, last] = items.as_slice() else {
            return Err(Wrong::new(format!("it has {} numbers", items.len()), mend));
        };
        let (first, last) = (u16::parse(first, around)?, u16::parse(last, around)?);
        if first > last {
            return Err(Wrong::new("the first port is above the last", format!("write [{last}, {first}]")));
        }
        Ok(first..=last)
    }
}

/// A table of numbers by name, such as a limit for each volume.
impl Value for BTreeMap<String, u32> {
    const SHAPE: &'static str = "{ NAME = NUMBER }";
    fn parse(raw: &Raw, around: &Around<'_>) -> Result<Self, Wrong> {
        match raw {
            Raw::Table(entries) => {
                entries.iter().map(|(name, raw)| Ok((name.clone(), u32::parse(raw, around)?))).collect()
            }
            Raw::Text(text) if text == "{}" => Ok(Self::new()),
            other => Err(Wrong::new(other.kind(), "write a table such as { \"/srv\" = 90 }")),
        }
    }
}

/// Text that is never shown: Debug and Display print `[hidden]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl Value for Secret {
    const SHAPE: &'static str = "SECRET";
    const SECRET: bool = true;
    fn parse(raw: &Raw, _: &Around<'_>) -> Result<Self, Wrong> {
        let text = raw.text("write it as text, or remove the line")?.trim();
        if text.chars().any(char::is_control) {
            return Err(Wrong::new("it has a control character in it", "write it on one line"));
        }
        Ok(Self::new(text))
    }
}

/// Defines an enum whose variants are written as one word each.
macro_rules! choices {
    ($(#[$outer:meta])* $Name:ident { $( $(#[$inner:meta])* $Variant:ident = $word:literal ),+ $(,)? } shape $shape:literal) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Name { $( $(#[$inner])* $Variant ),+ }

        impl $Name {
            /// The word that stands for it in the configuration and in the API.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$Variant => $word ),+ }
            }
        }

        impl $crate::config::value::Value for $Name {
            const SHAPE: &'static str = $shape;
            fn parse(
                raw: &$crate::config::value::Raw,
                _: &$crate::config::value::Around<'_>,
            ) -> Result<Self, $crate::config::value::Wrong> {
                let mend = concat!("write one of ", $shape);
                match raw.text(mend)?.trim() {
                    $( $word => Ok(Self::$Variant), )+
                    other => Err($crate::config::value::Wrong::new(format!("{other:?} is not known"), mend)),
                }
            }
        }
    };
}
pub(super) use choices;
