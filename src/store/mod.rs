//! What people keep: images, disks and half uploads, as files in folders. Blocking work: for the `disk` and `store` threads only.
//!
//! ```text
//! VM_BASE_DIR/images/NAME.iso             shared by admins
//! VM_BASE_DIR/users/UID/images/NAME.iso   a user's own, NAME.iso.sha256 beside it (as sha256sum writes it)
//! VM_BASE_DIR/users/UID/disks/NAME.qcow2  kept disks
//! VM_BASE_DIR/users/UID/uploads/ID        what has come of an upload; its row says the rest
//! VM_BASE_DIR/uploads/UID.iso             the image last uploaded, as another name of the same file
//! ```
//! The folders are the truth: a user's folder that is copied away and back is that user's again. A file comes to its place by one
//! rename, after it was written to the disk, so there is never half of one. Names are of a strict alphabet ([`names`]).
//! Two changes of one user's things never overlap ([`Claims`]).

pub mod disks;
pub mod images;
pub mod janitor;
pub mod known;
pub mod names;
pub mod stage;

use crate::reactor::task::{Answer, oneshot};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where things are.
#[derive(Debug, Clone)]
pub struct Layout(PathBuf);

impl Layout {
    /// Below `VM_BASE_DIR`.
    #[must_use]
    pub fn new(base_dir: &Path) -> Self {
        Self(base_dir.to_owned())
    }

    /// All that is one user's.
    #[must_use]
    pub fn user(&self, uid: &str) -> PathBuf {
        self.0.join("users").join(uid)
    }

    /// A user's images, or the shared ones.
    #[must_use]
    pub fn images(&self, uid: Option<&str>) -> PathBuf {
        match uid {
            Some(uid) => self.user(uid).join("images"),
            None => self.0.join("images"),
        }
    }

    /// A user's kept disks.
    #[must_use]
    pub fn disks(&self, uid: &str) -> PathBuf {
        self.user(uid).join("disks")
    }

    /// A user's half uploads.
    #[must_use]
    pub fn uploads(&self, uid: &str) -> PathBuf {
        self.user(uid).join("uploads")
    }

    /// Everything.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.0
    }
}

/// Makes a folder only the server may look into, with those above it; what is put there survives a loss of power with its way to there.
///
/// # Errors
/// The system's.
pub fn make_folder(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    missing.into_iter().filter_map(Path::parent).try_for_each(sync_folder)
}

/// Makes a file that another program made survive a loss of power.
///
/// # Errors
/// The system's.
pub fn sync_made(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes what happened to the names in a folder survive a loss of power.
///
/// # Errors
/// The system's.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file; one that is gone already is no error.
///
/// # Errors
/// The system's.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Plain files of a folder with their names and what the system knows of them; nothing where there is no folder. Names that
/// begin with a dot are not for people.
#[must_use]
pub fn files(folder: &Path) -> Vec<(String, std::fs::Metadata)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path().metadata().ok()?)))
        .filter(|(name, about)| about.is_file() && !name.starts_with('.'))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

type Queue = VecDeque<Answer<Claim>>;

/// One change of a user's things at a time; the others wait in order.
#[derive(Default)]
pub struct Claims(Rc<RefCell<HashMap<String, Queue>>>);

/// The right to change; dropping it lets the next one.
pub struct Claim {
    who: String,
    table: Rc<RefCell<HashMap<String, Queue>>>,
}

impl Claims {
    /// Waits for the right to change what is `who`'s.
    pub async fn of(&self, who: &str) -> Claim {
        loop {
            let promise = {
                let mut table = self.0.borrow_mut();
                match table.get_mut(who) {
                    None => {
                        table.insert(who.to_owned(), Queue::new());
                        return Claim { who: who.to_owned(), table: Rc::clone(&self.0) };
                    }
                    Some(queue) => {
                        let (answer, promise) = oneshot();
                        queue.push_back(answer);
                        promise
                    }
                }
            };
            if let Ok(claim) = promise.await {
                return claim;
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        loop {
            let next = {
                let mut table = self.table.borrow_mut();
                let Some(queue) = table.get_mut(&self.who) else { return };
                let next = queue.pop_front();
                if next.is_none() {
                    table.remove(&self.who);
                }
                next
            };
            match next {
                None => return,
                // Its asker left.
                Some(answer) if answer.is_abandoned() => {}
                Some(answer) => return answer.give(Self { who: self.who.clone(), table: Rc::clone(&self.table) }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::task::Tasks;
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn changes_of_one_user_come_one_after_the_other_and_others_do_not_wait() {
        let claims = Rc::new(Claims::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut tasks = Tasks::new(Arc::new(|| ()));
        let (open, gate) = oneshot::<()>();
        let (c, o) = (Rc::clone(&claims), Rc::clone(&order));
        tasks.spawner().spawn("first", async move {
            let _claim = c.of("alice").await;
            o.borrow_mut().push("alice 1");
            let _ = gate.await;
        });
        for (who, what) in [("alice", "alice 2"), ("bob", "bob 1"), ("alice", "alice 3")] {
            let (c, o) = (Rc::clone(&claims), Rc::clone(&order));
            tasks.spawner().spawn("next", async move {
                let _claim = c.of(who).await;
                o.borrow_mut().push(what);
            });
        }
        tasks.run_ready(Instant::now(), 100);
        assert_eq!(*order.borrow(), ["alice 1", "bob 1"]);
        open.give(());
        tasks.run_ready(Instant::now(), 100);
        assert_eq!(*order.borrow(), ["alice 1", "bob 1", "alice 2", "alice 3"]);
        assert!(claims.0.borrow().is_empty(), "a claim is left over");
    }
}
