//! What may go: half uploads whose time is over, files no row names, half names of images, run folders of VMs that ended. Finds; removes what it is told to.
//!
//! It only ever looks into the folders the server makes such things in, at names the server gives. A file that a row still names is
//! never among them, and what is younger than `leftover_hours` is left alone, for it may be on its way to its row.

use super::{Layout, files, images};
use crate::db::uploads::UploadRow;
use jiff::Timestamp;
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Something that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The file or folder.
    pub path: PathBuf,
    /// Bytes it takes.
    pub bytes: u64,
    /// Why it may go.
    pub why: &'static str,
    /// The upload whose row goes with it.
    pub upload: Option<String>,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} KB): {}", self.path.display(), self.bytes.div_ceil(1024), self.why)
    }
}

/// What rows name.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// All uploads.
    pub uploads: Vec<UploadRow>,
    /// VMs that are starting, running or stopping.
    pub live: HashSet<String>,
}

/// Finds what may go at `now`; files younger than `age` are left alone unless their row says that their time is over.
#[must_use]
pub fn find(layout: &Layout, named: &Named, now: Timestamp, age: Duration) -> Vec<Leftover> {
    let mut found = Vec::new();
    for row in named.uploads.iter().filter(|row| row.expires_at <= now) {
        let path = layout.uploads(&row.user_id).join(&row.id);
        let bytes = path.metadata().map_or(0, |about| about.len());
        let why = if row.done { "upload long finished" } else { "upload not gone on with in time" };
        found.push(Leftover { path, bytes, why, upload: Some(row.id.clone()) });
    }
    let users = folders(&layout.base().join("users"));
    for (uid, _) in &users {
        for (name, about) in files(&layout.uploads(uid)) {
            let known = named.uploads.iter().any(|row| row.id == name);
            let ours = name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit());
            if ours && !known && is_old(&about, age) {
                let path = layout.uploads(uid).join(name);
                found.push(Leftover { path, bytes: about.len(), why: "upload without a row", upload: None });
            }
        }
    }
    let libraries = users.iter().map(|(uid, _)| layout.images(Some(uid)));
    for folder in libraries.chain([layout.images(None), layout.base().join("uploads")]) {
        found.extend(halves(&folder, age));
    }
    for (name, about) in folders(&layout.base().join("runs")) {
        let ours = name.len() == 12 && name.bytes().all(|b| b.is_ascii_hexdigit());
        if ours && !named.live.contains(&name) && is_old(&about, age) {
            let path = layout.base().join("runs").join(name);
            let bytes = files(&path).iter().map(|(_, about)| about.len()).sum();
            found.push(Leftover { path, bytes, why: "run folder of a VM that has ended", upload: None });
        }
    }
    found
}

/// Names that an image had on its way to its place when the server was killed. A link to an old file is as old as its name.
fn halves(folder: &Path, age: Duration) -> Vec<Leftover> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let about = entry.metadata().ok().filter(|about| !about.is_dir())?;
        let name = entry.file_name();
        let name = name.to_str()?;
        // A copy is as old as its last byte.
        let at = if name.ends_with(images::COPY_ENDING) { about.mtime() } else { about.ctime() };
        let named = UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or(0));
        let is_old = SystemTime::now().duration_since(named).is_ok_and(|since| since >= age);
        let bytes = if about.nlink() > 1 { 0 } else { about.len() };
        let leftover = Leftover { path: entry.path(), bytes, why: "image half in its place", upload: None };
        (is_old && images::is_half(name)).then_some(leftover)
    });
    found.collect()
}

fn folders(path: &Path) -> Vec<(String, std::fs::Metadata)> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let found = entries.flatten().filter_map(|entry| {
        // Not through a link: somebody put it there, and not us.
        let about = entry.metadata().ok().filter(std::fs::Metadata::is_dir)?;
        Some((entry.file_name().into_string().ok()?, about))
    });
    found.collect()
}

fn is_old(about: &std::fs::Metadata, age: Duration) -> bool {
    let modified = about.modified().unwrap_or_else(|_| SystemTime::now());
    SystemTime::now().duration_since(modified).is_ok_and(|since| since >= age)
}

/// Removes one; what is gone already is no error.
///
/// # Errors
/// The system's.
pub fn remove(leftover: &Leftover) -> io::Result<()> {
    let removed = match leftover.path.symlink_metadata() {
        Ok(about) if about.is_dir() => std::fs::remove_dir_all(&leftover.path),
        Ok(_) => std::fs::remove_file(&leftover.path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, user: &str, expires_at: Timestamp) -> UploadRow {
        UploadRow {
            id: id.into(),
            user_id: user.into(),
            shared: false,
            resumable: true,
            name: "a.iso".into(),
            format: "iso".into(),
            profile: "custom".into(),
            metadata: String::new(),
            size: 9,
            verified_to: None,
            done: false,
            expires_at,
        }
    }

    #[test]
    fn names_that_images_had_on_their_way_go_when_they_are_old() {
        let base = tempfile::tempdir().unwrap();
        let layout = Layout::new(base.path());
        let folders = [layout.images(None), layout.images(Some("u1")), base.path().join("uploads")];
        let halves = [".a.iso.new", ".a.iso.sha256", ".a.iso.old", ".0123456789ab"];
        for folder in &folders {
            std::fs::create_dir_all(folder).unwrap();
            for name in halves.iter().chain(&["a.iso", "a.iso.sha256", "b.new", ".keep"]) {
                std::fs::write(folder.join(name), "bytes").unwrap();
            }
        }
        // Another name of an image is as old as itself.
        let link = folders[0].join(".b.new");
        std::fs::hard_link(folders[0].join("a.iso"), &link).unwrap();
        let now = Timestamp::from_second(1000).unwrap();
        let found = find(&layout, &Named::default(), now, Duration::ZERO);
        assert_eq!(found.len(), 3 * halves.len() + 1, "{found:?}");
        assert!(found.iter().any(|half| half.path == link && half.bytes == 0), "{found:?}");
        found.iter().for_each(|half| remove(half).unwrap());
        for folder in &folders {
            assert_eq!(std::fs::read_dir(folder).unwrap().count(), 4, "{}", folder.display());
        }
        std::fs::write(&link, "").unwrap();
        assert_eq!(find(&layout, &Named::default(), now, Duration::from_secs(60)), []);
    }

    #[test]
    fn only_what_no_row_names_or_whose_time_is_over_may_go() {
        let base = tempfile::tempdir().unwrap();
        let layout = Layout::new(base.path());
        let (now, later) = (Timestamp::from_second(1000).unwrap(), Timestamp::from_second(2000).unwrap());
        let ids = ["a", "b", "c"].map(|letter| letter.repeat(32));
        let write = |path: PathBuf| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "bytes").unwrap();
        };
        ids.iter().for_each(|id| write(layout.uploads("u1").join(id)));
        for path in ["uploads/notes.txt", "images/x.iso", "disks/d.qcow2"] {
            write(layout.user("u1").join(path));
        }
        for name in ["a.iso", ".a.iso.1.part", ".a.iso.new", "b.part"] {
            write(layout.images(None).join(name));
        }
        for path in ["runs/0123456789ab/overlay.qcow2", "runs/ba9876543210/overlay.qcow2", "runs/mine/keep"] {
            write(base.path().join(path));
        }
        let named = Named {
            uploads: vec![row(&ids[0], "u1", later), row(&ids[1], "u1", now)],
            live: HashSet::from(["0123456789ab".to_owned()]),
        };
        let mut found: Vec<PathBuf> = find(&layout, &named, now, Duration::ZERO).into_iter().map(|l| l.path).collect();
        found.sort();
        let mut expected = [
            base.path().join("runs/ba9876543210"),
            layout.uploads("u1").join(&ids[1]),
            layout.uploads("u1").join(&ids[2]),
            layout.images(None).join(".a.iso.1.part"),
            layout.images(None).join(".a.iso.new"),
        ];
        expected.sort();
        assert_eq!(found, expected);
        let young = find(&layout, &named, now, Duration::from_secs(3600));
        assert_eq!(young.len(), 1, "{young:?}");
        for leftover in find(&layout, &named, now, Duration::ZERO) {
            remove(&leftover).unwrap();
            remove(&leftover).unwrap();
        }
        assert!(layout.uploads("u1").join(&ids[0]).exists() && base.path().join("runs/0123456789ab").exists());
        assert!(base.path().join("runs/mine/keep").exists() && layout.uploads("u1").join("notes.txt").exists());
    }
}
