//! Names of images, disks and snapshots: they become parts of paths and of QEMU's options, so their alphabet is strict.

use crate::proto::problem::Problem;
use data_encoding::HEXLOWER;
use ring::digest;
use std::fmt;

/// Longest name, in bytes.
const NAME_MAX: usize = 96;

/// What an image is; always said, never guessed from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A bootable CD.
    Iso,
    /// A disk image of QEMU's own.
    Qcow2,
    /// A disk image, byte for byte.
    Raw,
}

impl Format {
    /// As the API writes it.
    ///
    /// # Errors
    /// 422.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        match text {
            "iso" => Ok(Self::Iso),
            "qcow2" => Ok(Self::Qcow2),
            "raw" => Ok(Self::Raw),
            _ => Err(Problem::unprocessable("format", "must be iso, qcow2 or raw")),
        }
    }

    /// What a file's name says; names are given by [`image_name`].
    #[must_use]
    pub fn of(name: &str) -> Self {
        match name.rsplit_once('.') {
            Some((_, "qcow2")) => Self::Qcow2,
            Some((_, "raw")) => Self::Raw,
            _ => Self::Iso,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iso => "iso",
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        })
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._+-".contains(&byte)
}

/// The name an uploaded file is kept under: its last part, without what is not in the alphabet, and with the format's ending.
#[must_use]
pub fn image_name(given: &str, format: Format) -> String {
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = last.rsplit_once('.').map_or(last, |(stem, ending)| {
        let known = ["iso", "img", "qcow2", "raw"].iter().any(|known| ending.eq_ignore_ascii_case(known));
        if known { stem } else { last }
    });
    let plain: String = stem.chars().map(|c| if u8::try_from(c).is_ok_and(is_plain) { c } else { '-' }).collect();
    // What the alphabet lacks must not make two names one.
    let mark = if stem.is_ascii() { String::new() } else { format!("-{}", mark_of(stem)) };
    let plain = plain.trim_start_matches(['.', '-', '+', '_']);
    // Shortened first, then trimmed, so that a name that was given comes out as it went in.
    let plain = plain.get(..NAME_MAX - 16 - mark.len()).unwrap_or(plain).trim_end_matches(['.', '-']);
    let plain = if plain.is_empty() { "image" } else { plain };
    format!("{plain}{mark}.{format}")
}

fn mark_of(stem: &str) -> String {
    let hash = digest::digest(&digest::SHA256, stem.as_bytes());
    HEXLOWER.encode(hash.as_ref().get(..3).unwrap_or_default())
}

/// The name of an image that should be there.
///
/// # Errors
/// 404: under another name there can be none.
pub fn known_image(name: &str) -> Result<&str, Problem> {
    let plain = !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
    if plain { Ok(name) } else { Err(Problem::not_found("iso_not_found", "There is no image of this name.")) }
}

/// The name of a disk or snapshot.
///
/// # Errors
/// 422.
pub fn check<'a>(field: &'static str, name: &'a str) -> Result<&'a str, Problem> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && name.len() <= 64 && name.bytes().all(is_plain) {
        return Ok(name);
    }
    Err(Problem::unprocessable(
        field,
        "must be 1 to 64 letters, digits, dots, dashes, plus or underscores, a letter or digit first",
    ))
}

/// The name of a new snapshot: not a number, for QEMU and `qemu-img` take a number for the id of a snapshot before they look at names.
///
/// # Errors
/// 422.
pub fn check_snapshot<'a>(field: &'static str, name: &'a str) -> Result<&'a str, Problem> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Problem::unprocessable(field, "must not be digits alone; add a letter"));
    }
    check(field, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn any_file_name_becomes_one_of_the_alphabet_with_the_right_ending() {
        for (given, format, name) in [
            ("debian-12.iso", Format::Iso, "debian-12.iso"),
            ("C:\\isos\\Void Linux.ISO", Format::Iso, "Void-Linux.iso"),
            ("../../etc/passwd", Format::Iso, "passwd.iso"),
            ("disk.img", Format::Raw, "disk.raw"),
            ("evil.qcow2", Format::Iso, "evil.iso"),
            ("a,b=c\n.iso", Format::Iso, "a-b-c.iso"),
            ("\u{fc}bung.iso", Format::Iso, "bung-e2001a.iso"),
            ("...", Format::Iso, "image.iso"),
            ("v1.2", Format::Qcow2, "v1.2.qcow2"),
        ] {
            assert_eq!(image_name(given, format), name);
            assert_eq!(Format::of(name), format);
            assert!(known_image(name).is_ok());
        }
        assert!(image_name(&"x".repeat(500), Format::Iso).len() <= NAME_MAX);
        assert_ne!(image_name("\u{65e5}\u{672c}.iso", Format::Iso), image_name("\u{4e2d}\u{56fd}.iso", Format::Iso));
    }

    #[test]
    fn disk_names_that_could_be_paths_or_options_are_refused() {
        assert!(check("disk", "work-1.0_a").is_ok());
        for bad in ["", ".hidden", "-x", "a/b", "a,b", "a b", "..", "\u{e4}", &"x".repeat(65)] {
            assert_eq!(check("disk", bad).unwrap_err().status, 422, "{bad}");
        }
    }

    #[test]
    fn a_snapshot_is_not_named_as_qemu_numbers_them() {
        assert!(check("name", "2").is_ok() && check_snapshot("name", "2a").is_ok());
        for bad in ["2", "007", "", "a b"] {
            assert_eq!(check_snapshot("name", bad).unwrap_err().status, 422, "{bad}");
        }
    }

    fn is_one_part_of_a_path(name: &str) -> bool {
        Path::new(name).components().eq([Component::Normal(name.as_ref())])
    }

    proptest! {
        #[test]
        fn a_name_that_is_kept_is_one_plain_part_of_a_path_and_stays_what_it_is(
            given in prop_oneof![
                ".{0,120}",
                "[a-zA-Z0-9][a-zA-Z0-9._+-]{0,99}",
                "[-./,=+_ \\\\\\n\\x00\\x1ba\u{fc}]{0,12}",
                "[a-z.-]{70,90}(\u{fc}|,)?[.]{0,2}(iso|raw|img|QCOW2)?",
            ],
        ) {
            let odd = |name: &str| name.contains(|c: char| c.is_control() || ",=/\\ ".contains(c));
            for format in [Format::Iso, Format::Qcow2, Format::Raw] {
                let name = image_name(&given, format);
                prop_assert!(is_one_part_of_a_path(&name) && !odd(&name) && !name.starts_with(['.', '-']), "{name:?}");
                prop_assert!(name.len() <= NAME_MAX && known_image(&name).is_ok(), "{name:?}");
                prop_assert_eq!(Format::of(&name), format);
                prop_assert_eq!(&image_name(&name, format), &name);
            }
            for name in [check("disk", &given), check_snapshot("name", &given)].into_iter().flatten() {
                prop_assert!(is_one_part_of_a_path(name) && !odd(name) && !name.starts_with(['.', '-']));
                prop_assert_eq!(name, &given);
            }
            // A file that an operator put there has the name he gave it: commas and all, but no way out of its folder.
            if let Ok(name) = known_image(&given) {
                prop_assert!(is_one_part_of_a_path(name) && !name.contains('\0'));
                prop_assert_eq!(name, &given);
            }
        }
    }
}
