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
//! Two changes of one user's things never overlap, and what many use is not changed meanwhile ([`Claims`]).

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

/// How a claim is held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Alone,
    Together,
}

/// Who has a claim, and who waits for it in order.
struct Holders {
    way: Way,
    count: usize,
    queue: VecDeque<(Way, Answer<Claim>)>,
}

impl Holders {
    /// Who is next, when nobody has it any more: one alone, or all those in front who may have it together.
    fn next(&mut self) -> Vec<Answer<Claim>> {
        let mut next = Vec::new();
        let is_shared = |waits: &VecDeque<(Way, _)>| waits.front().is_some_and(|(way, _)| *way == Way::Together);
        while next.is_empty() || (self.way == Way::Together && is_shared(&self.queue)) {
            let Some((way, answer)) = self.queue.pop_front() else { break };
            // Else its asker left.
            if !answer.is_abandoned() {
                self.way = way;
                next.push(answer);
            }
        }
        self.count = next.len();
        next
    }
}

/// One change of a user's things at a time; the others wait in order. Many may hold one thing still together.
#[derive(Default)]
pub struct Claims(Rc<RefCell<HashMap<String, Holders>>>);

/// The right to change, or that nobody else changes; dropping it lets the next one.
pub struct Claim {
    who: String,
    table: Rc<RefCell<HashMap<String, Holders>>>,
}

impl Claims {
    /// Waits for the right to change what is `who`'s.
    pub async fn of(&self, who: &str) -> Claim {
        self.take(who, Way::Alone).await
    }

    /// Waits until nobody changes what is `who`'s, and lets nobody: whoever only uses it may do so beside others. Who came before to change it
    /// is let first.
    pub async fn still(&self, who: &str) -> Claim {
        self.take(who, Way::Together).await
    }

    async fn take(&self, who: &str, way: Way) -> Claim {
        let claim = || Claim { who: who.to_owned(), table: Rc::clone(&self.0) };
        loop {
            let promise = {
                let mut table = self.0.borrow_mut();
                match table.get_mut(who) {
                    None => {
                        table.insert(who.to_owned(), Holders { way, count: 1, queue: VecDeque::new() });
                        return claim();
                    }
                    Some(held) if [held.way, way] == [Way::Together; 2] && held.queue.is_empty() => {
                        held.count += 1;
                        return claim();
                    }
                    Some(held) => {
                        let (answer, promise) = oneshot();
                        held.queue.push_back((way, answer));
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
        let next = {
            let mut table = self.table.borrow_mut();
            let Some(held) = table.get_mut(&self.who) else { return };
            held.count -= 1;
            if held.count > 0 {
                return;
            }
            let next = held.next();
            if next.is_empty() {
                table.remove(&self.who);
            }
            next
        };
        for answer in next {
            answer.give(Self { who: self.who.clone(), table: Rc::clone(&self.table) });
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

    #[test]
    fn who_only_uses_a_thing_waits_for_nobody_but_who_changes_it_and_he_for_all_of_them() {
        let claims = Rc::new(Claims::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut tasks = Tasks::new(Arc::new(|| ()));
        let mut gates = Vec::new();
        for what in ["use 1", "use 2", "change", "use 3", "use 4"] {
            let (c, o, (open, gate)) = (Rc::clone(&claims), Rc::clone(&order), oneshot::<()>());
            gates.push(open);
            tasks.spawner().spawn(what, async move {
                let _claim = if what == "change" { c.of("all").await } else { c.still("all").await };
                o.borrow_mut().push(what);
                let _ = gate.await;
            });
        }
        let there = [2, 2, 3, 5, 5, 5];
        for (opened, there) in there.into_iter().enumerate() {
            tasks.run_ready(Instant::now(), 100);
            assert_eq!(order.borrow().len(), there, "{opened} have ended: {:?}", order.borrow());
            if opened < 5 {
                gates.remove(0).give(());
            }
        }
        assert_eq!(*order.borrow(), ["use 1", "use 2", "change", "use 3", "use 4"]);
        assert!(claims.0.borrow().is_empty(), "a claim is left over");
    }
}
