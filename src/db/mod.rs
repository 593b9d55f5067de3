//! The database: one thread that blocks on PostgreSQL so that the loop never does.
//!
//! Stories call typed functions (`users::create(&db, …)`); each sends a job to the thread and waits for its answer. The queue is bounded.
//! The thread owns one connection; when it is lost, jobs are answered [`Error::Away`] at once and connecting goes on in the background,
//! with a pause that grows to a quarter of a second. A job whose connection broke in the middle is answered [`Error::Lost`]:
//! what it did may or may not have happened, so undoing must be idempotent.
//!
//! One server a database: it holds a session-level advisory lock as long as it is connected. Secrets in the URL never appear in errors.

pub mod accounts;
pub mod alerts;
pub mod conn;
pub mod events;
pub mod invites;
pub mod migrate;
pub mod moments;
pub mod ports;
pub mod private;
pub mod sessions;
pub mod shares;
mod thread;
pub mod uploads;
pub mod url;
pub mod users;
pub mod vms;

pub use conn::Conn;
pub use thread::{CliDb, Thread, open_for_cli};

use crate::reactor::task::oneshot;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where the database is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `postgresql://…`; `None` is a private cluster below `base_dir`.
    pub url: Option<String>,
    /// `VM_BASE_DIR`.
    pub base_dir: PathBuf,
    /// Where `initdb` and `postgres` are; `None` looks in the usual places.
    pub postgres_bin_dir: Option<PathBuf>,
    /// Jobs that may wait.
    pub queue: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// How the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// On its way, with what is being done.
    Starting(String),
    /// It answers.
    Ready,
    /// It does not answer right now.
    Away {
        /// Why.
        reason: String,
    },
    /// It can never be right with these settings.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// Why a job has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The queue is full; nothing was done.
    Busy,
    /// The database does not answer; nothing was done.
    Away(String),
    /// The answer is lost; it may have been done.
    Lost,
    /// A unique constraint says no.
    Unique {
        /// The constraint's or index's name.
        constraint: String,
    },
    /// Anything else PostgreSQL says.
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("too much waits for the database"),
            Self::Away(why) => write!(f, "the database does not answer: {why}"),
            Self::Lost => f.write_str("the database's answer is lost"),
            Self::Unique { constraint } => write!(f, "that exists already ({constraint})"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) if *db.code() == postgres::error::SqlState::UNIQUE_VIOLATION => {
                Self::Unique { constraint: db.constraint().unwrap_or("?").to_owned() }
            }
            Some(db) if passes(db.code().code()) => {
                log::warn!("database: {}", db.message());
                Self::Lost
            }
            Some(db) => Self::Other(format!("{}: {}", db.severity(), db.message())),
            None if error.is_closed() || is_io(&error) => Self::Lost,
            None => Self::Other(error.to_string()),
        }
    }
}

/// SQLSTATEs that say nothing against the statement: the same one may be done a moment later. Classes 08 (connection), 40 (rolled
/// back), 53 (out of memory, disk or connections), 57 (shut down, crashed, timed out), and 55P03 (a lock is held).
fn passes(code: &str) -> bool {
    ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)) || code == "55P03"
}

fn is_io(error: &postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>())
}

/// What the thread is given: it is called with a connection, or with why there is none.
type Job = Box<dyn FnOnce(Result<&mut Conn, Error>) + Send>;

enum Message {
    Job(Job),
    Stop,
}

/// The loop's handle.
#[derive(Clone)]
pub struct Db {
    jobs: SyncSender<Message>,
    state: Arc<Mutex<State>>,
    /// Jobs that wait or are being done.
    depth: Arc<AtomicUsize>,
    /// Jobs that were refused because too many waited.
    refused: Arc<AtomicU64>,
}

/// One job that waits; dropping it counts it off.
struct Waits(Arc<AtomicUsize>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Db {
    /// Jobs that were refused because too many waited.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Jobs that wait or are being done.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    /// How the database is now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs `job` on the thread and waits for its result.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Conn) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, promise) = oneshot();
        self.depth.fetch_add(1, Ordering::Relaxed);
        let waits = Waits(Arc::clone(&self.depth));
        let job: Job = Box::new(move |conn| {
            let _waits = waits;
            answer.give(conn.and_then(job));
        });
        match self.jobs.try_send(Message::Job(job)) {
            Ok(()) => promise.await.unwrap_or(Err(Error::Lost)),
            Err(TrySendError::Full(_)) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(Error::Busy)
            }
            Err(TrySendError::Disconnected(_)) => Err(Error::Away("the database thread has ended".into())),
        }
    }
}
