//! Images: what people upload and boot from. A library for each user, one that is shared, and the file a profile names.

use super::names::Format;
use super::{Layout, files, make_folder, remove, sync_folder};
use crate::config::{ImageRule, Profile};
use crate::proto::problem::Problem;
use crate::proto::{iso9660, qcow2};
use std::collections::HashSet;
use std::fs::Metadata;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Whose claim the shared library is; no user has this id.
pub const SHARED: &str = "(shared)";
/// Ending of the file that holds an image's SHA-256.
const HASH_ENDING: &str = ".sha256";
/// Ending of the hidden file that an image is copied to, beside its place.
pub const COPY_ENDING: &str = ".part";
/// Endings of names, with a dot before them, that files have while an image comes to its place or another's.
const NEW_ENDING: &str = ".new";
const OLD_ENDING: &str = ".old";
/// Bytes of an image to look at.
pub const HEAD_BYTES: usize = iso9660::HEAD_BYTES;

/// An image in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its file name.
    pub name: String,
    /// What it is.
    pub format: Format,
    /// Its size in bytes.
    pub size: u64,
    /// Of the whole file, in hex, where it was uploaded here.
    pub sha256: Option<String>,
    /// Seconds since 1970 when it came.
    pub modified: i64,
    /// It belongs to all.
    pub shared: bool,
    /// It is what starts when no image is named.
    pub is_default: bool,
}

/// May this be booted? Looked at when an image comes and again at each launch.
///
/// # Errors
/// 422 with the reason and what to do.
pub fn check(head: &[u8], size: u64, format: Format) -> Result<(), Problem> {
    let wrong =
        |why: String| Problem::new(422, "bad_image", format!("This image cannot be used: {why}.")).in_field("iso");
    if size < iso9660::SIZE_MIN && format != Format::Qcow2 {
        let error = if size == 0 { iso9660::IsoError::Empty } else { iso9660::IsoError::TooSmall(size) };
        return Err(wrong(error.to_string()));
    }
    match format {
        Format::Iso => iso9660::check(head, size).map(drop).map_err(|e| wrong(e.to_string())),
        Format::Qcow2 => qcow2::check(head, size).map(drop).map_err(|e| wrong(e.to_string())),
        Format::Raw if head.starts_with(b"QFI\xfb") => Err(wrong("it is a qcow2 image; say so in format".into())),
        Format::Raw if !size.is_multiple_of(512) => {
            Err(wrong("a disk has whole sectors of 512 bytes; was the download complete?".into()))
        }
        Format::Raw => Ok(()),
    }
}

/// Where the last upload of a user gets its second name: what the profile boots for him, if that is his alone.
#[must_use]
pub fn default_place(profile: &Profile, uid: &str) -> Option<PathBuf> {
    let is_directory = profile.image_base(uid).ok()?.is_dir();
    match profile.image_rule(uid, is_directory).ok()? {
        ImageRule::InDirectory { dir, name } if profile.names_users() => Some(dir.join(name)),
        _ => None,
    }
}

/// Brings a whole, synced file to its place, and leaves it where it was too where the file system allows that: done again, it is as if it was
/// done once, so that whoever began it may go on after a crash at any point. Whoever looks sees the old image or the new one.
///
/// # Errors
/// The system's; then the file is where it was.
pub fn place(staged: &Path, folder: &Path, name: &str, sha256: &str, default: Option<&Path>) -> io::Result<()> {
    make_folder(folder)?;
    let (target, hash) = (folder.join(name), folder.join(format!("{name}{HASH_ENDING}")));
    let [half, new] = [HASH_ENDING, NEW_ENDING].map(|ending| folder.join(format!(".{name}{ending}")));
    let placed = write_hash(&half, &format!("{sha256}  {name}"))
        .and_then(|()| exchange(staged, &new, &target, &hash))
        .and_then(|()| std::fs::rename(&half, &hash))
        .and_then(|()| sync_folder(folder));
    if placed.is_err() {
        let _ = (remove(&half), remove(&new));
    }
    placed?;
    match default {
        Some(default) => also_name(&target, default),
        None => Ok(()),
    }
}

/// The files of an image: itself and its hash.
#[must_use]
pub fn parts(folder: &Path, name: &str) -> [PathBuf; 2] {
    [folder.join(name), folder.join(format!("{name}{HASH_ENDING}"))]
}

fn write_hash(path: &Path, line: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{line}")?;
    file.sync_all()
}

/// Puts the file in the place of what is there, by way of `new`, and takes that one's hash away: an image never has another's. Where it
/// does not come to its place, the hash comes back.
fn exchange(staged: &Path, new: &Path, target: &Path, hash: &Path) -> io::Result<()> {
    remove(new)?;
    // There are file systems without second names.
    let from = if std::fs::hard_link(staged, new).is_ok() { new } else { staged };
    let aside = new.with_extension(OLD_ENDING.trim_start_matches('.'));
    match std::fs::rename(hash, &aside) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    if let Err(e) = std::fs::rename(from, target) {
        let _ = std::fs::rename(&aside, hash);
        return Err(e);
    }
    // Two names of one file already: rename did nothing.
    remove(new)?;
    remove(&aside)
}

/// Gives a file another name, at once and instead of what had it. In another file system it is a link that says where.
fn also_name(file: &Path, name: &Path) -> io::Result<()> {
    let folder = name.parent().unwrap_or(name);
    make_folder(folder)?;
    let half = folder.join(format!(".{}{NEW_ENDING}", name.file_name().unwrap_or_default().to_string_lossy()));
    remove(&half)?;
    match std::fs::hard_link(file, &half) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => std::os::unix::fs::symlink(file, &half)?,
        other => other?,
    }
    let named = std::fs::rename(&half, name);
    // Two names of one file, and rename did nothing; or it failed.
    remove(&half)?;
    named?;
    sync_folder(folder)
}

/// Whether a file of this name is one that was being made when the server was killed. Older servers named some by an id alone.
#[must_use]
pub fn is_half(name: &str) -> bool {
    let Some(rest) = name.strip_prefix('.') else { return false };
    let by_id = rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit());
    by_id || [HASH_ENDING, NEW_ENDING, OLD_ENDING, COPY_ENDING].iter().any(|ending| rest.ends_with(ending))
}

/// What a user may boot, his own first.
#[must_use]
pub fn list(layout: &Layout, profile: Option<&Profile>, uid: &str) -> Vec<Listed> {
    let default = profile.and_then(|profile| {
        let own = default_place(profile, uid).is_some();
        profile_file(profile, uid).map(|(path, about)| (path, about, own))
    });
    let default_id = default.as_ref().map(|(_, about, _)| identity(about));
    let mut found = Vec::new();
    for (folder, shared) in [(layout.images(Some(uid)), false), (layout.images(None), true)] {
        for (name, about) in library(&folder) {
            let is_default = default_id == Some(identity(&about));
            let sha256 = stored_hash(&folder, &name);
            let format = Format::of(&name);
            found.push(Listed { name, format, size: about.len(), sha256, modified: about.mtime(), shared, is_default });
        }
    }
    if let Some((path, about, own)) = default
        && !found.iter().any(|image| image.is_default)
    {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (size, modified) = (about.len(), about.mtime());
        let (format, shared) = (Format::of(&name), !own);
        found.insert(0, Listed { name, format, size, sha256: None, modified, shared, is_default: true });
    }
    found
}

/// The file a profile boots for this user when none is named.
fn profile_file(profile: &Profile, uid: &str) -> Option<(PathBuf, Metadata)> {
    let is_directory = profile.image_base(uid).ok()?.is_dir();
    let path = profile.image_rule(uid, is_directory).ok()?.path();
    let about = path.metadata().ok().filter(Metadata::is_file)?;
    Some((path, about))
}

fn library(folder: &Path) -> impl Iterator<Item = (String, Metadata)> {
    files(folder).into_iter().filter(|(name, _)| !name.ends_with(HASH_ENDING))
}

fn identity(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

fn stored_hash(folder: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(folder.join(format!("{name}{HASH_ENDING}"))).ok()?;
    text.split_whitespace().next().filter(|hash| hash.len() == 64).map(str::to_owned)
}

/// Bytes a user's images take: each file once, however many names it has.
#[must_use]
pub fn used(layout: &Layout, profiles: &[&Profile], uid: &str) -> u64 {
    let defaults = profiles.iter().filter_map(|profile| default_place(profile, uid)?.metadata().ok());
    let folder = layout.images(Some(uid));
    let library = library(&folder).map(|(_, about)| about);
    let mut seen = HashSet::new();
    library.chain(defaults).filter(|about| seen.insert(identity(about))).map(|about| about.len()).sum()
}

/// The folder that has a user's own image of this name: his library, or, for what the old version left, one of `defaults`. There a second
/// name of an image in the library is no image of its own.
#[must_use]
pub fn own_folder(layout: &Layout, defaults: &[PathBuf], uid: &str, name: &str) -> Option<PathBuf> {
    let mine = layout.images(Some(uid));
    if mine.join(name).is_file() {
        return Some(mine);
    }
    let is_listed = |default: &Path| library(&mine).any(|(other, _)| is_same(&mine.join(other), default));
    let named = defaults.iter().find(|default| default.file_name().is_some_and(|file| file == name))?;
    let alone = named.is_file() && !is_listed(named);
    alone.then(|| named.parent().map(Path::to_owned)).flatten()
}

/// Names, own or shared, that are the same file as `path`.
#[must_use]
pub fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.metadata(), b.metadata()), (Ok(a), Ok(b)) if identity(&a) == identity(&b))
}

/// Removes an image with its hash, and the second names that `defaults` would give it. False when there is none.
///
/// # Errors
/// The system's.
pub fn delete(folder: &Path, name: &str, defaults: &[PathBuf]) -> io::Result<bool> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(false);
    }
    for default in defaults.iter().filter(|default| is_same(default, &path)) {
        remove(default)?;
    }
    for part in parts(folder, name) {
        remove(&part)?;
    }
    sync_folder(folder)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_replaces_the_one_of_its_name_and_the_default_with_it() {
        let base = tempfile::tempdir().unwrap();
        let layout = Layout::new(base.path());
        let (folder, default) = (layout.images(Some("u1")), base.path().join("uploads/u1.iso"));
        let bring = |bytes: &[u8], name: &str| {
            let staged = base.path().join("staged");
            std::fs::write(&staged, bytes).unwrap();
            for _ in 0..2 {
                place(&staged, &folder, name, &"ab".repeat(32), Some(&default)).unwrap();
            }
            // What follows is another file.
            std::fs::remove_file(&staged).unwrap();
        };
        bring(b"one", "a.iso");
        bring(b"two!", "a.iso");
        bring(b"two!", "a.iso");
        assert_eq!(std::fs::read(&default).unwrap(), b"two!");
        bring(b"three", "b.iso");
        assert_eq!(std::fs::read(&default).unwrap(), b"three");
        let names: Vec<_> = list(&layout, None, "u1").into_iter().map(|i| (i.name, i.sha256.is_some())).collect();
        assert_eq!(names, [("a.iso".to_owned(), true), ("b.iso".to_owned(), true)]);
        assert_eq!(used(&layout, &[], "u1"), 9);
        assert!(delete(&folder, "b.iso", std::slice::from_ref(&default)).unwrap());
        assert!(!default.exists() && !delete(&folder, "b.iso", &[]).unwrap());
        assert_eq!(files(&base.path().join("uploads")).len() + files(&folder).len(), 2, "a.iso and its hash");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "nothing hidden is left");
    }

    #[test]
    fn an_image_that_cannot_come_to_its_place_changes_nothing() {
        let base = tempfile::tempdir().unwrap();
        let (folder, staged) = (base.path().join("images"), base.path().join("staged"));
        let names = |folder: &Path| {
            let mut names: Vec<_> =
                std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        // A folder in the place of a file: nothing can be renamed to it.
        for blocked in ["images/a.iso", "uploads/u1.iso"] {
            std::fs::create_dir_all(base.path().join(blocked)).unwrap();
        }
        std::fs::write(&staged, b"new").unwrap();
        std::fs::write(folder.join("a.iso.sha256"), "the old one's").unwrap();
        place(&staged, &folder, "a.iso", &"ab".repeat(32), None).unwrap_err();
        assert_eq!(names(&folder), ["a.iso", "a.iso.sha256"]);
        assert_eq!(std::fs::read_to_string(folder.join("a.iso.sha256")).unwrap(), "the old one's");
        let default = base.path().join("uploads/u1.iso");
        place(&staged, &folder, "b.iso", &"ab".repeat(32), Some(&default)).unwrap_err();
        assert_eq!(names(&base.path().join("uploads")), ["u1.iso"]);
    }

    #[test]
    fn images_are_told_by_their_format_never_by_their_bytes() {
        let mut qcow2 = vec![0; 512];
        qcow2[..4].copy_from_slice(b"QFI\xfb");
        (qcow2[7], qcow2[23]) = (3, 16);
        assert!(check(&qcow2, 200_000, Format::Qcow2).is_ok());
        for (format, word) in [(Format::Iso, "CD001"), (Format::Raw, "qcow2 image")] {
            let problem = check(&qcow2, 20_000_000, format).unwrap_err();
            assert!(problem.status == 422 && problem.detail.contains(word), "{}", problem.detail);
        }
        assert!(check(&[0; 512], 20_000_256, Format::Raw).is_ok());
        assert!(check(&[0; 512], 20_000_001, Format::Raw).unwrap_err().detail.contains("sectors"));
        assert!(check(&[], 9_000_000, Format::Iso).unwrap_err().detail.contains("10 MB"));
        assert!(check(&[], 0, Format::Raw).unwrap_err().detail.contains("empty"));
    }
}
