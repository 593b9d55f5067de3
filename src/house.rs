//! What a story can reach: one struct of rooms, shared by all tasks of the loop's thread.
//!
//! Everything in here lives on that thread (`Rc`, `Cell`, `RefCell`), except the handles to worker threads, which are values to send by.
//! No borrow of a `RefCell` is ever held over an `await`: each room has methods that borrow, do, and return.
//! What only the server may do with its sockets is left for it as an [`Order`].

use crate::config::Config;
use crate::db::Db;
use crate::metrics::Metrics;
use crate::net::feed::Notify;
use crate::net::relay::{End, Meter};
use crate::net::tls::TlsSettings;
use crate::proto::problem::Problem;
use crate::reactor::task::{Either, Spawner, first};
use crate::reactor::{Clock, Io};
use crate::sampler::Sampler;
use crate::store::{Claims, Layout};
use crate::vm::apart::Apart;
use crate::vm::cgroup::Groups;
use crate::vm::diary::Diary;
use crate::vm::host::Host;
use crate::vm::hypervisor::Hypervisor;
use crate::vm::launch::Launches;
use crate::vm::net_filter::NetFilter;
use crate::vm::{Vmid, Vms};
use crate::web::events::Bus;
use crate::web::session::Sessions;
use crate::web::throttle::Throttle;
use crate::web::uploads::Uploads;
use crate::work::hash::Hash;
use crate::work::{Pool, Refused};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who gets an event or a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A listening socket, by its place in the server's list.
    Listener(usize),
    /// A browser's connection.
    Conn(u64),
    /// QEMU's side of the relay that connection became.
    Back(u64),
    /// A QEMU's monitor socket.
    Qmp(u64),
    /// A QEMU's serial console.
    Serial(u64),
    /// A QEMU's standard output.
    Stdout(u64),
    /// A QEMU's standard error.
    Stderr(u64),
    /// A QEMU's exit (pidfd).
    Exit(u64),
    /// The signalfd.
    Signals,
}

impl Owner {
    /// For people: what it is, and which.
    #[must_use]
    pub const fn named(&self) -> (&'static str, u64) {
        match self {
            Self::Listener(index) => ("listener", *index as u64),
            Self::Conn(id) => ("connection", *id),
            Self::Back(id) => ("screen", *id),
            Self::Qmp(id) => ("monitor", *id),
            Self::Serial(id) => ("serial console", *id),
            Self::Stdout(id) | Self::Stderr(id) => ("output", *id),
            Self::Exit(id) => ("exit", *id),
            Self::Signals => ("signals", 0),
        }
    }
}

/// Which relays an order means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All of one VM.
    Vm(Vmid),
    /// All that were opened with one of these session tokens (their hashes).
    Sessions(HashSet<[u8; 32]>),
    /// Those of one viewer of a VM, by his number there.
    Viewer(Vmid, u64),
}

/// Something the server does with its connections at the end of the turn.
pub enum Order {
    /// End relays (and, for sessions, streams of events).
    End(Which, End),
    /// There is something to write to this connection.
    Write(u64),
}

/// Handle to all rooms; cloning it is cheap.
pub type Cx = Rc<House>;

/// See the file's page.
pub struct House {
    /// The settings, as they were at the start.
    pub config: Arc<Config>,
    /// Time of the loop.
    pub clock: Clock<Owner>,
    /// Where sockets are registered.
    pub io: Rc<Io<Owner>>,
    /// Starts stories.
    pub spawner: Spawner,
    /// The database thread.
    pub db: Db,
    /// What happened, on its way to the database.
    pub diary: Diary,
    /// Threads for files and processes.
    pub disk: Pool,
    /// Threads that write uploads: they may wait for the disk for seconds, which a launch must not.
    pub store: Pool,
    /// The thread that makes pictures of screens; behind everything else.
    pub pictures: Pool,
    /// Where what people keep is.
    pub layout: Layout,
    /// One change of a user's images and disks at a time.
    pub claims: Claims,
    /// Uploads that are being worked on.
    pub uploads: Uploads,
    /// The password thread.
    pub hash: Hash,
    /// Sessions, as the database has them.
    pub sessions: Sessions,
    /// Rates per address and account.
    pub throttle: Throttle,
    /// Launches under way.
    pub launches: Launches,
    /// Live VMs.
    pub vms: Vms,
    /// Streams of events to browsers.
    pub bus: Bus,
    /// Counters.
    pub metrics: Metrics,
    /// The thread that measures the host.
    pub sampler: Sampler,
    /// What it measured.
    pub host: Host,
    /// What passed through all relays.
    pub relayed: Rc<Meter>,
    /// QEMU, once it was looked for.
    pub hypervisor: Hypervisor,
    /// Whom QEMUs run as.
    pub apart: Apart,
    /// What those with internet access may reach.
    pub net_filter: NetFilter,
    /// What they may take of the host.
    pub groups: Arc<Groups>,
    /// Certificates, unless TLS is off.
    pub tls: Option<TlsSettings>,
    /// The port that really listens: the settings may leave it to the system.
    pub port: Cell<u16>,
    /// For the server, see [`Order`].
    pub orders: RefCell<Vec<Order>>,
    /// Set when the server was told to end: no launches, no keep-alive.
    pub stopping: Cell<bool>,
    /// Set once the rows of a former run were looked after; launches wait for it.
    pub swept: Cell<bool>,
    /// Power cycles of a former server that are gone on with.
    pub going_on: Cell<u32>,
    /// Consoles that are being brought to the disk because the server ends.
    pub spooling: Cell<u32>,
}

impl House {
    /// The time of this turn.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Leaves an order for the server.
    pub fn order(&self, order: Order) {
        self.orders.borrow_mut().push(order);
    }

    /// What a [`crate::net::feed::Feed`] calls when it has something to write.
    #[must_use]
    pub fn notify(self: &Rc<Self>) -> Notify {
        let house = Rc::downgrade(self);
        Rc::new(move |conn| {
            if let Some(house) = house.upgrade() {
                house.order(Order::Write(conn));
            }
        })
    }

    /// Waits for the database, but not for ever: after the bound the caller is told to come back, and what was asked may or may
    /// not have happened.
    ///
    /// # Errors
    /// The database's, as a [`Problem`]; 503 when it does not answer in time.
    pub async fn db<T>(&self, call: impl Future<Output = Result<T, crate::db::Error>>) -> Result<T, Problem> {
        let asked = self.now();
        let limit = Duration::from_secs(self.config.limits.db_seconds);
        match first(call, self.clock.sleep(limit)).await {
            Either::First(result) => {
                self.metrics.db_seconds.observe(self.now() - asked);
                result.map_err(Problem::from)
            }
            Either::Second(()) => {
                self.metrics.db_timeouts.add(1);
                // As long as it was waited for: without those the slowest waits are the ones that are not seen.
                self.metrics.db_seconds.observe(limit);
                Err(Problem::from(crate::db::Error::Lost))
            }
        }
    }

    /// Runs `job` on the file threads.
    ///
    /// # Errors
    /// 503 when their queue is full, 500 when the job broke.
    pub async fn disk<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        self.disk.call(job).await.map_err(Problem::from)
    }

    /// Runs `job` on the threads that write uploads, in its turn: uploads are bounded by their number.
    ///
    /// # Errors
    /// 500 when the job broke.
    pub async fn store<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        self.store.call_in_turn(job).await.map_err(Problem::from)
    }

    /// `work` or nothing after `limit`; only for plain waits.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        match first(work, self.clock.sleep(limit)).await {
            Either::First(value) => Some(value),
            Either::Second(()) => None,
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::unavailable("busy", refused.to_string(), 2),
            Refused::Broke => Self::internal(refused.to_string()),
        }
    }
}

impl From<crate::db::Error> for Problem {
    fn from(error: crate::db::Error) -> Self {
        use crate::db::Error;
        match error {
            Error::Busy => Self::unavailable("busy", "The server is busy. Try again in a moment.", 2),
            Error::Away(_) | Error::Lost => {
                Self::unavailable("database_away", "The database does not answer right now. Try again in a moment.", 3)
            }
            Error::Unique { constraint } => {
                Self::conflict("already_exists", format!("That exists already ({constraint})."))
            }
            Error::Other(why) => {
                log::error!("database: {why}");
                Self::internal("The database refused an operation; the server's log says why.")
            }
        }
    }
}
