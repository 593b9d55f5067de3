//! Keeps VMs apart: each QEMU runs as a user of its own, who owns nothing but that VM's run folder.
//!
//! A guest that breaks out of its QEMU is then a user who can read neither the server's files nor another VM's, nor signal or trace
//! another QEMU. The uids come from a range of the settings and need no entry in the user database. Which VM has which is written on
//! its run folder, whose owner it is; so a server that takes VMs back knows. Images are opened by the server and inherited
//! (`attach`), and whoever listens on a socket in a run folder is asked for his pid before he is believed ([`is_of`]).
//!
//! Where the server may not become other users, QEMU runs as the server's own user, and `vmshare check` says what that gives up. It
//! never runs as root.

use super::Vmid;
use crate::config::Config;
use crate::proto::problem::Problem;
use crate::sys::rights::{self, Right};
use crate::sys::{sockopt, user};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;

/// What it takes to run programs as other users and to look after what they leave.
const RIGHTS: [Right; 6] = [Right::Chown, Right::DacOverride, Right::Fowner, Right::Kill, Right::SetGid, Right::SetUid];

/// Whom QEMUs run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Users {
    /// Each as one of these, who is also its own group.
    Range(RangeInclusive<u32>),
    /// As the server's user, for this reason.
    Ours(String),
    /// Nobody: they would be root, for this reason.
    Refused(String),
}

impl Users {
    /// Looks what this host and this process allow.
    #[must_use]
    pub fn look(config: &Config) -> Self {
        let range = config.vm_uids.clone();
        let why = match rights::missing(&RIGHTS) {
            Ok(missing) if missing.is_empty() => match rights::has_uids(&range) {
                Ok(true) => return Self::Range(range),
                Ok(false) => {
                    format!("the uids {} to {} do not all exist here: set vm_uid_range", range.start(), range.end())
                }
                Err(e) => e.to_string(),
            },
            Ok(missing) => format!("the server lacks the rights {missing:?}"),
            Err(e) => e.to_string(),
        };
        if user::euid() == 0 { Self::Refused(why) } else { Self::Ours(why) }
    }

    /// One of them, to try something as.
    #[must_use]
    pub fn any(&self) -> Option<(u32, u32)> {
        match self {
            Self::Range(range) => Some((*range.end(), *range.end())),
            _ => None,
        }
    }
}

/// Which VM runs as whom.
pub struct Apart {
    users: Users,
    taken: RefCell<HashMap<Vmid, u32>>,
    next: Cell<u32>,
}

impl Apart {
    /// With nobody yet.
    #[must_use]
    pub fn new(users: Users) -> Self {
        Self { users, taken: RefCell::default(), next: Cell::new(0) }
    }

    /// Whom QEMUs run as here.
    #[must_use]
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// A user for a VM; the same one when it has one already. `None` where it is the server's own.
    ///
    /// # Errors
    /// 503 when all are taken or QEMU would be root.
    pub fn take(&self, vmid: Vmid) -> Result<Option<u32>, Problem> {
        let range = match &self.users {
            Users::Ours(_) => return Ok(None),
            Users::Refused(why) => {
                log::error!("no VM is started: QEMU would run as root, because {why}");
                let detail = "VMs are not started here because they would run as root. Tell the operator.";
                return Err(Problem::unavailable("not_isolated", detail, 60));
            }
            Users::Range(range) => range,
        };
        let mut taken = self.taken.borrow_mut();
        if let Some(uid) = taken.get(&vmid) {
            return Ok(Some(*uid));
        }
        // Not the one that was just given back: what it left may still be on its way out.
        let count = u64::from(range.end() - range.start()) + 1;
        let at = |n: u64| range.start() + u32::try_from((u64::from(self.next.get()) + n) % count).unwrap_or(0);
        let free = (0..count).map(at).find(|uid| !taken.values().any(|other| other == uid));
        let detail = "All users for VMs are taken (vm_uid_range). Try again when somebody has stopped a VM.";
        let uid = free.ok_or_else(|| Problem::unavailable("uids_exhausted", detail, 30))?;
        self.next.set(uid - range.start() + 1);
        taken.insert(vmid, uid);
        Ok(Some(uid))
    }

    /// The user of a VM, if it has one of its own.
    #[must_use]
    pub fn of(&self, vmid: Vmid) -> Option<u32> {
        self.taken.borrow().get(&vmid).copied()
    }

    /// A VM of a former server runs as `uid`.
    pub fn take_back(&self, vmid: Vmid, uid: u32) {
        if uid != user::euid() {
            self.taken.borrow_mut().insert(vmid, uid);
        }
    }

    /// All users that VMs have.
    #[must_use]
    pub fn taken(&self) -> Vec<u32> {
        self.taken.borrow().values().copied().collect()
    }

    /// The VM is gone, and so is its folder.
    pub fn give_back(&self, vmid: Vmid) {
        self.taken.borrow_mut().remove(&vmid);
    }
}

/// Whether `pid` listens at the other end of a socket that was found in its folder: its user could have put another one there.
///
/// # Errors
/// It does not.
pub fn is_of(socket: &impl AsFd, pid: u32) -> io::Result<()> {
    match sockopt::peer_pid(socket)? {
        peer if peer == pid => Ok(()),
        peer => Err(io::Error::other(format!("process {peer} listens in the place of qemu ({pid})"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vm_has_a_user_of_its_own_and_the_last_one_given_back_rests() {
        let apart = Apart::new(Users::Range(10..=12));
        let [a, b, c, d] = std::array::from_fn(|_| Vmid::random());
        assert_eq!(apart.take(a).unwrap(), Some(10));
        assert_eq!(apart.take(a).unwrap(), Some(10));
        assert_eq!(apart.take(b).unwrap(), Some(11));
        apart.give_back(b);
        assert_eq!(apart.take(c).unwrap(), Some(12));
        assert_eq!(apart.take(d).unwrap(), Some(11));
        assert_eq!(apart.take(b).unwrap_err().code, "uids_exhausted");
        apart.give_back(a);
        assert_eq!(apart.take(b).unwrap(), Some(10));
        assert_eq!((apart.of(b), apart.of(a)), (Some(10), None));
    }

    #[test]
    fn a_vm_that_was_taken_back_keeps_its_user() {
        let apart = Apart::new(Users::Range(10..=11));
        let [a, b, c] = std::array::from_fn(|_| Vmid::random());
        apart.take_back(a, 10);
        assert_eq!(apart.take(b).unwrap(), Some(11));
        assert!(apart.take(c).is_err());
    }

    #[test]
    fn no_vm_is_started_as_root() {
        let apart = Apart::new(Users::Refused("no rights".into()));
        assert_eq!(apart.take(Vmid::random()).unwrap_err().code, "not_isolated");
        assert_eq!(Apart::new(Users::Ours("not root".into())).take(Vmid::random()).unwrap(), None);
    }

    #[test]
    fn a_socket_of_somebody_else_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
        is_of(&socket, std::process::id()).unwrap();
        assert!(is_of(&socket, 1).unwrap_err().to_string().contains("in the place of qemu"));
    }
}
