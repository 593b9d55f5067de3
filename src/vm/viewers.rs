//! Who looks at a VM: one entry a person or link, however many screens and terminals it has open.
//!
//! The owner always controls. Whoever else looks only looks, unless his link says otherwise or somebody gives him control; it can be taken
//! back at any moment, also from a link that had it, and what was given is gone when his last screen closes. In memory: connections end with the server, and so does what was given.

use crate::net::relay::Meter;
use jiff::Timestamp;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

/// What lets somebody look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is his VM.
    Owner,
    /// Somebody gave him a link.
    Link,
    /// He teaches the owner.
    Teacher,
    /// He runs the server.
    Admin,
}

impl Kind {
    /// As the API writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Link => "link",
            Self::Teacher => "teacher",
            Self::Admin => "admin",
        }
    }

    /// True for those whom the owner did not let in, and who is told of them.
    #[must_use]
    pub fn watches(self) -> bool {
        matches!(self, Self::Teacher | Self::Admin)
    }
}

/// Somebody who looks.
pub struct Viewer {
    /// Names him in the API.
    pub id: u64,
    /// What lets him.
    pub kind: Kind,
    /// A login name, or which link.
    pub name: String,
    /// The hash of the session's or link's token.
    pub token: [u8; 32],
    /// Whether what he sends goes on to the VM.
    pub control: Rc<Cell<bool>>,
    /// Open screens and terminals.
    pub open: Cell<u32>,
    /// When he opened the first of them.
    pub since: Timestamp,
    /// What passed through all of them.
    pub meter: Rc<Meter>,
}

/// All who look at one VM; as many as there are connections.
#[derive(Default)]
pub struct Viewers {
    by_id: RefCell<BTreeMap<u64, Rc<Viewer>>>,
    last: Cell<u64>,
    /// Tokens whose control was taken: it does not come back with another screen.
    barred: RefCell<HashSet<[u8; 32]>>,
    /// What passed through screens that are closed, to browsers and to the VM.
    closed: Cell<(u64, u64)>,
    /// What passes through those that are open, by their visits.
    visits: RefCell<BTreeMap<String, Rc<Meter>>>,
}

impl Viewers {
    /// Another screen of somebody; true when it is the first.
    #[must_use]
    pub fn enter(
        &self,
        kind: Kind,
        name: &str,
        token: [u8; 32],
        control: bool,
        of_vm: &Rc<Meter>,
    ) -> (Rc<Viewer>, bool) {
        if let Some(viewer) = self.of(&token) {
            viewer.open.set(viewer.open.get() + 1);
            return (viewer, false);
        }
        self.last.set(self.last.get() + 1);
        let viewer = Rc::new(Viewer {
            id: self.last.get(),
            kind,
            name: name.to_owned(),
            token,
            control: Rc::new(Cell::new(control && !self.barred.borrow().contains(&token))),
            open: Cell::new(1),
            since: Timestamp::now(),
            meter: Rc::new(Meter::below(of_vm)),
        });
        self.by_id.borrow_mut().insert(viewer.id, Rc::clone(&viewer));
        (viewer, true)
    }

    /// Gives or takes control, for all screens he has and will have; true when that changes something.
    pub fn allow(&self, viewer: &Viewer, control: bool) -> bool {
        if control {
            self.barred.borrow_mut().remove(&viewer.token);
        } else {
            self.barred.borrow_mut().insert(viewer.token);
        }
        viewer.control.replace(control) != control
    }

    /// A screen was opened: what it counts, by its visit.
    pub fn add_open(&self, visit: &str, meter: &Rc<Meter>) {
        self.visits.borrow_mut().insert(visit.to_owned(), Rc::clone(meter));
    }

    /// What has passed through each open screen, by its visit, to browsers and to the VM.
    #[must_use]
    pub fn totals(&self) -> Vec<(String, u64, u64)> {
        let visits = self.visits.borrow();
        visits.iter().map(|(visit, meter)| (visit.clone(), meter.down.get(), meter.up.get())).collect()
    }

    /// Counts what passed through a screen that was closed.
    pub fn add_closed(&self, visit: &str, meter: &Meter) {
        self.visits.borrow_mut().remove(visit);
        let (down, up) = self.closed.get();
        self.closed.set((down + meter.down.get(), up + meter.up.get()));
    }

    /// What passed through screens that were closed.
    #[must_use]
    pub fn closed(&self) -> (u64, u64) {
        self.closed.get()
    }

    /// A screen was closed; true when it was the last one of this viewer.
    pub fn leave(&self, viewer: &Viewer) -> bool {
        viewer.open.set(viewer.open.get().saturating_sub(1));
        let last = viewer.open.get() == 0;
        if last {
            self.by_id.borrow_mut().remove(&viewer.id);
        }
        last
    }

    /// By the token that lets him in.
    #[must_use]
    pub fn of(&self, token: &[u8; 32]) -> Option<Rc<Viewer>> {
        self.by_id.borrow().values().find(|viewer| viewer.token == *token).cloned()
    }

    /// By id.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Rc<Viewer>> {
        self.by_id.borrow().get(&id).cloned()
    }

    /// All of them, who came first before.
    #[must_use]
    pub fn all(&self) -> Vec<Rc<Viewer>> {
        self.by_id.borrow().values().cloned().collect()
    }

    /// Open screens and terminals of all.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.by_id.borrow().values().map(|viewer| viewer.open.get()).sum()
    }

    /// Who watches: teachers and administrators, by login name, each once.
    #[must_use]
    pub fn watching(&self) -> Vec<String> {
        let all = self.by_id.borrow();
        let mut names: Vec<String> =
            all.values().filter(|viewer| viewer.kind.watches()).map(|viewer| viewer.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_is_one_however_many_screens_he_has_and_gone_with_the_last() {
        let (all, meter) = (Viewers::default(), Rc::default());
        let (first, new) = all.enter(Kind::Teacher, "lee", [1; 32], false, &meter);
        assert!(new);
        first.control.set(true);
        let (again, new) = all.enter(Kind::Teacher, "lee", [1; 32], false, &meter);
        assert!(!new && again.id == first.id && again.control.get(), "what was given counts for all his screens");
        let (_owner, _) = all.enter(Kind::Owner, "ada", [2; 32], true, &meter);
        assert_eq!((all.open(), all.watching()), (3, vec!["lee".to_owned()]));
        assert!(!all.leave(&again) && all.leave(&first));
        assert_eq!((all.open(), all.watching().len()), (1, 0));
        let (back, new) = all.enter(Kind::Teacher, "lee", [1; 32], false, &meter);
        assert!(new && !back.control.get(), "what was given went with the last screen");
        let (by_link, _) = all.enter(Kind::Link, "link", [3; 32], true, &meter);
        assert!(all.allow(&by_link, false) && !all.allow(&by_link, false));
        assert!(all.leave(&by_link));
        let (again, _) = all.enter(Kind::Link, "link", [3; 32], true, &meter);
        assert!(!again.control.get(), "what was taken comes back with another screen");
        assert!(all.allow(&again, true));
    }
}
