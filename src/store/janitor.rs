//! What may go: half uploads whose time is over, files no row names, run folders of VMs that ended. Finds; removes what it is told to.
//!
//! It only ever looks into the folders the server makes such things in, at names the server gives. A file that a row still names is
//! never among them, and what is younger than `leftover_hours` is left alone, for it may be on its way to its row.

use super::{Layout, files, images};
use crate::db::uploads::UploadRow;
use jiff::Timestamp;
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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
    for (path, about) in copies(&layout.images(None)).into_iter().filter(|(_, about)| is_old(about, age)) {
        found.push(Leftover { path, bytes: about.len(), why: "copy of an image that was broken off", upload: None });
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

/// What `vmshare image add` copies to; a copy under way is written to all the time.
fn copies(folder: &Path) -> Vec<(PathBuf, std::fs::Metadata)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let found = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let ours = name.starts_with('.') && name.ends_with(images::COPY_ENDING);
        Some((entry.path(), entry.metadata().ok()?)).filter(|(_, about)| ours && about.is_file())
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
