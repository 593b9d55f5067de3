//! Who looks at a VM: one entry a session, or a browser below a link, however many screens and terminals it has open.
//!
//! The owner always controls. Whoever else looks only looks, unless his link says otherwise or somebody gives him control; it can be taken
//! back at any moment, also from one who had it by his link, and what was given is gone when his last screen closes. In memory: connections
//! end with the server, and so does what was given.
//!
//! Many may hold one link. A browser names itself by a secret of its own, so one of them can be given control, or lose it, alone. But a secret is
//! easily replaced: while control is taken from anybody who came by a link, it lets nobody in with control whom it had not let in before.

use crate::net::relay::Meter;
use jiff::Timestamp;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// Tells him from others who came with the same token: the token's hash, or one of it and his browser's own secret.
    pub key: [u8; 32],
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
    /// Tokens where control was taken from somebody: it does not come back with another screen, unless an administrator asks for it.
    barred: RefCell<HashMap<[u8; 32], Bar>>,
    /// What passed through screens that are closed, to browsers and to the VM.
    closed: Cell<(u64, u64)>,
    /// What passes through those that are open, by their visits.
    visits: RefCell<BTreeMap<String, Rc<Meter>>>,
}

/// Of those who came with one token: by their keys, from whom control was taken, and who keeps it. One that stands no more is kept: it is
/// known here sooner than in the database that this is so.
#[derive(Default)]
struct Bar {
    taken: HashSet<[u8; 32]>,
    kept: HashSet<[u8; 32]>,
    /// A server before this one made it, and from whom control was taken is not known any more.
    former: bool,
}

impl Bar {
    fn stands(&self) -> bool {
        self.former || !self.taken.is_empty()
    }
}

/// Somebody who comes.
#[derive(Debug, Clone, Copy)]
pub struct Comer<'a> {
    /// What lets him.
    pub kind: Kind,
    /// A login name, or which link.
    pub name: &'a str,
    /// The hash of the session's or link's token.
    pub token: [u8; 32],
    /// See [`Viewer::key`].
    pub key: [u8; 32],
    /// Whether he has control, unless it was taken from him.
    pub control: bool,
}

impl Viewers {
    /// Another screen of somebody; true when it is the first.
    #[must_use]
    pub fn enter(&self, comer: Comer<'_>, of_vm: &Rc<Meter>) -> (Rc<Viewer>, bool) {
        let Comer { kind, name, token, key, control } = comer;
        if let Some(viewer) = self.of(&key) {
            viewer.open.set(viewer.open.get() + 1);
            return (viewer, false);
        }
        let may = self.lets_control(&token, &key);
        self.last.set(self.last.get() + 1);
        let viewer = Rc::new(Viewer {
            id: self.last.get(),
            kind,
            name: name.to_owned(),
            token,
            key,
            control: Rc::new(Cell::new(control && may)),
            open: Cell::new(1),
            since: Timestamp::now(),
            meter: Rc::new(Meter::below(of_vm)),
        });
        self.by_id.borrow_mut().insert(viewer.id, Rc::clone(&viewer));
        (viewer, true)
    }

    /// Gives or takes control, for all screens he has and will have; true when that changes something.
    pub fn allow(&self, viewer: &Viewer, control: bool) -> bool {
        let changes = viewer.control.replace(control) != control;
        let mut barred = self.barred.borrow_mut();
        if control {
            let Some(bar) = barred.get_mut(&viewer.token) else { return changes };
            bar.taken.remove(&viewer.key);
            bar.kept.insert(viewer.key);
        } else {
            let bar = barred.entry(viewer.token).or_default();
            if !bar.stands() {
                let all = self.by_id.borrow();
                let others = all.values().filter(|other| other.token == viewer.token && other.control.get());
                bar.kept = others.map(|other| other.key).collect();
            }
            bar.kept.remove(&viewer.key);
            bar.taken.insert(viewer.key);
        }
        changes
    }

    /// True while control is taken from somebody who came with this token.
    #[must_use]
    pub fn is_barred(&self, token: &[u8; 32]) -> bool {
        self.barred.borrow().get(token).is_some_and(Bar::stands)
    }

    /// A server before this one has taken control from somebody who came with this token.
    pub fn remember_bar(&self, token: [u8; 32]) {
        self.barred.borrow_mut().entry(token).or_insert_with(|| Bar { former: true, ..Bar::default() });
    }

    /// False for him from whom control was taken, and for who comes new while it is taken from anybody with this token.
    #[must_use]
    pub fn lets_control(&self, token: &[u8; 32], key: &[u8; 32]) -> bool {
        self.barred.borrow().get(token).is_none_or(|bar| !bar.stands() || bar.kept.contains(key))
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

    /// By his key.
    #[must_use]
    pub fn of(&self, key: &[u8; 32]) -> Option<Rc<Viewer>> {
        self.by_id.borrow().values().find(|viewer| viewer.key == *key).cloned()
    }

    /// Screens and terminals that are open with a token.
    #[must_use]
    pub fn open_with(&self, token: &[u8; 32]) -> u32 {
        self.by_id.borrow().values().filter(|viewer| viewer.token == *token).map(|viewer| viewer.open.get()).sum()
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

    fn comer(kind: Kind, token: u8, key: u8, control: bool) -> Comer<'static> {
        Comer {
            kind,
            name: if kind == Kind::Teacher { "lee" } else { "other" },
            token: [token; 32],
            key: [key; 32],
            control,
        }
    }

    #[test]
    fn a_viewer_is_one_however_many_screens_he_has_and_gone_with_the_last() {
        let (all, meter) = (Viewers::default(), Rc::default());
        let lee = comer(Kind::Teacher, 1, 1, false);
        let (first, new) = all.enter(lee, &meter);
        assert!(new && all.allow(&first, true));
        let (again, new) = all.enter(lee, &meter);
        assert!(!new && again.id == first.id && again.control.get(), "what was given counts for all his screens");
        let (_owner, _) = all.enter(comer(Kind::Owner, 2, 2, true), &meter);
        assert_eq!((all.open(), all.watching()), (3, vec!["lee".to_owned()]));
        assert!(!all.leave(&again) && all.leave(&first));
        assert_eq!((all.open(), all.watching().len()), (1, 0));
        let (back, new) = all.enter(lee, &meter);
        assert!(new && !back.control.get(), "what was given went with the last screen");
    }

    #[test]
    fn control_is_given_to_one_of_those_behind_a_link_and_taken_from_him_alone() {
        let (all, meter) = (Viewers::default(), Rc::default());
        let (one, _) = all.enter(comer(Kind::Link, 3, 31, false), &meter);
        let (other, new) = all.enter(comer(Kind::Link, 3, 32, false), &meter);
        assert!(new && one.id != other.id && all.open_with(&[3; 32]) == 2);
        assert!(all.allow(&one, true));
        assert!(one.control.get() && !other.control.get(), "what one has the other has not");
        assert!(all.allow(&one, false) && !one.control.get());
    }

    #[test]
    fn what_was_taken_comes_back_neither_with_another_screen_nor_with_another_name() {
        let (all, meter) = (Viewers::default(), Rc::default());
        let (out, _) = all.enter(comer(Kind::Link, 3, 31, true), &meter);
        let (stays, _) = all.enter(comer(Kind::Link, 3, 32, true), &meter);
        assert!(all.allow(&out, false) && !all.allow(&out, false) && all.is_barred(&[3; 32]));
        assert!(stays.control.get() && all.leave(&out) && all.leave(&stays));
        let comes = |key| all.enter(comer(Kind::Link, 3, key, true), &meter).0;
        let (out, stays, new) = (comes(31), comes(32), comes(33));
        assert_eq!([&out, &stays, &new].map(|viewer| viewer.control.get()), [false, true, false]);
        let (elsewhere, _) = all.enter(comer(Kind::Link, 4, 41, true), &meter);
        assert!(elsewhere.control.get(), "another link is not meant");
        // Given back to the one it was taken from, the link is again what it says.
        assert!(all.allow(&out, true) && !all.is_barred(&[3; 32]));
        assert!(comes(34).control.get());
    }

    #[test]
    fn what_a_former_server_took_comes_back_to_nobody_but_who_is_given_it() {
        let (all, meter) = (Viewers::default(), Rc::default());
        all.remember_bar([3; 32]);
        let comes = |key| all.enter(comer(Kind::Link, 3, key, true), &meter).0;
        let given = comes(31);
        assert!(!given.control.get() && all.allow(&given, true) && all.is_barred(&[3; 32]));
        assert!(all.leave(&given) && comes(31).control.get());
        assert!(!comes(32).control.get(), "the one it was taken from may be this one");
        // One that this server has lifted is not made again by what the database said before.
        let (out, _) = all.enter(comer(Kind::Link, 4, 41, true), &meter);
        assert!(all.allow(&out, false) && all.allow(&out, true));
        all.remember_bar([4; 32]);
        assert!(!all.is_barred(&[4; 32]));
    }
}
