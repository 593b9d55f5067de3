//! The thread: connects, migrates, serves jobs, and connects again.

use super::private::Cluster;
use super::{Conn, Db, Error, Message, Settings, State, migrate, url};
use postgres::{Config, NoTls};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// One server a database.
const SERVER_LOCK: i64 = 0x766d_7368_0002;
/// Pauses between attempts to connect: first and longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

/// The running thread.
pub struct Thread {
    jobs: SyncSender<Message>,
    handle: JoinHandle<()>,
}

impl Thread {
    /// Ends it after the queued jobs, and the private cluster with it, within `limit`: a frozen database is left alone.
    pub fn stop(self, limit: Duration) {
        // A full queue empties, or the thread hangs and the wait below ends.
        let deadline = std::time::Instant::now() + limit;
        let mut told = false;
        while std::time::Instant::now() < deadline {
            told = told || self.jobs.try_send(Message::Stop).is_ok();
            if self.handle.is_finished() {
                let _ = self.handle.join();
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        log::error!("the database thread does not end; what it holds is left");
    }
}

impl Db {
    /// Starts the thread. `on_change` is called from it whenever the state changes.
    ///
    /// # Errors
    /// The system's, when no thread can be made.
    pub fn start(settings: Settings, on_change: impl Fn(&State) + Send + 'static) -> std::io::Result<(Self, Thread)> {
        let (jobs, queue) = sync_channel(settings.queue);
        let state = Arc::new(Mutex::new(State::Starting("connecting".into())));
        let shared = Arc::clone(&state);
        let set = move |new: State| {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if *state != new {
                *state = new.clone();
                drop(state);
                on_change(&new);
            }
        };
        let handle = std::thread::Builder::new().name("db".into()).spawn(move || run(&settings, &queue, &set))?;
        Ok((
            Self { jobs: jobs.clone(), state, depth: Arc::default(), refused: Arc::default() },
            Thread { jobs, handle },
        ))
    }
}

/// Where to connect: an address, or a cluster of our own that is kept running.
enum Place {
    Url(Box<Config>),
    Private(Box<Cluster>),
}

/// Why there is no connection.
enum NoConn {
    /// It may come.
    Away(String),
    /// It will not.
    Refused(String),
}

impl Place {
    fn find(settings: &Settings) -> Result<Self, String> {
        match &settings.url {
            Some(text) => url::parse(text, settings.connect_timeout).map(|config| Self::Url(Box::new(config))),
            None => Cluster::prepare(&settings.base_dir, settings.postgres_bin_dir.as_deref())
                .map(|cluster| Self::Private(Box::new(cluster))),
        }
    }

    fn connect(&mut self) -> Result<Conn, NoConn> {
        let config = match self {
            Self::Url(config) => config.as_ref().clone(),
            Self::Private(cluster) => {
                cluster.ensure().map_err(NoConn::Away)?;
                cluster.config()
            }
        };
        let client = config.connect(NoTls).map_err(|e| why_not(&e))?;
        let mut conn = Conn::new(client);
        let version: i32 = conn
            .client()
            .query_one("select current_setting('server_version_num')::int", &[])
            .and_then(|row| row.try_get(0))
            .map_err(|e| why_not(&e))?;
        if version < 140_000 {
            return Err(NoConn::Refused(format!("PostgreSQL {} is too old, 14 or newer is needed", version / 10_000)));
        }
        Ok(conn)
    }
}

/// Wrong user, password or database do not mend themselves; everything else may.
fn why_not(error: &postgres::Error) -> NoConn {
    let text = match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => error.to_string(),
    };
    let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
    match code.as_str() {
        "28P01" | "28000" | "3D000" | "42501" => NoConn::Refused(format!("{text}: correct DATABASE_URL")),
        _ => NoConn::Away(text),
    }
}

/// Connects, takes the server's lock and migrates.
fn open(place: &mut Place) -> Result<Conn, NoConn> {
    let mut conn = place.connect()?;
    let locked =
        conn.client().query_one("select pg_try_advisory_lock($1)", &[&SERVER_LOCK]).map_err(|e| why_not(&e))?;
    if !locked.get::<_, bool>(0) {
        let holder = "select a.pid, coalesce(host(a.client_addr), 'this host') from pg_locks l \
            join pg_stat_activity a on a.pid = l.pid where l.locktype = 'advisory' and l.granted and l.objid = $1::bigint::oid";
        let objid = SERVER_LOCK & 0xffff_ffff;
        let who = conn.client().query_opt(holder, &[&objid]).ok().flatten();
        let who = who.map_or_else(String::new, |row| {
            format!(" (backend {} from {})", row.get::<_, i32>(0), row.get::<_, String>(1))
        });
        return Err(NoConn::Away(format!("another vmshare server uses this database{who}")));
    }
    migrate::run(&mut conn).map_err(NoConn::Refused)?;
    Ok(conn)
}

fn run(settings: &Settings, queue: &Receiver<Message>, set: &impl Fn(State)) {
    let mut place = match Place::find(settings) {
        Ok(place) => place,
        Err(reason) => return refuse(None, queue, set, reason),
    };
    let mut first = true;
    loop {
        match open(&mut place) {
            Ok(conn) => {
                first = false;
                set(State::Ready);
                match serve(conn, queue) {
                    Served::Stop => break,
                    Served::Lost(reason) => set(State::Away { reason }),
                }
            }
            Err(NoConn::Refused(reason)) => return refuse(Some(place), queue, set, reason),
            // At the start another server's lock is final; later it can only be our own former connection's.
            Err(NoConn::Away(reason)) if first && reason.starts_with("another vmshare") => {
                if !wait_for_lock(&mut place, queue) {
                    return refuse(Some(place), queue, set, reason);
                }
            }
            Err(NoConn::Away(reason)) => {
                set(State::Away { reason: reason.clone() });
                if answer_away(queue, &reason) {
                    break;
                }
            }
        }
    }
    if let Place::Private(mut cluster) = place {
        cluster.stop();
    }
}

/// A server that was killed a moment ago may still have its backend: give PostgreSQL two seconds to notice.
fn wait_for_lock(place: &mut Place, queue: &Receiver<Message>) -> bool {
    for _ in 0..8 {
        if answer_away(queue, "waiting for the former server's connection to end") {
            return false;
        }
        if let Ok(mut conn) = place.connect() {
            let free = conn.client().query_one("select pg_try_advisory_lock($1)", &[&SERVER_LOCK]);
            if free.is_ok_and(|row| row.get(0)) {
                return true;
            }
        }
    }
    false
}

/// The end of the matter. A cluster that was started here is stopped before anybody hears of it; another server's is left alone.
fn refuse(place: Option<Place>, queue: &Receiver<Message>, set: &impl Fn(State), reason: String) {
    if let Some(Place::Private(mut cluster)) = place
        && cluster.is_ours()
    {
        cluster.stop();
    }
    set(State::Refused { reason: reason.clone() });
    while let Ok(Message::Job(job)) = queue.recv() {
        job(Err(Error::Away(reason.clone())));
    }
}

/// Answers jobs that there is no database, for a pause. True when told to stop.
fn answer_away(queue: &Receiver<Message>, reason: &str) -> bool {
    let deadline = std::time::Instant::now() + PAUSE.1;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        match queue.recv_timeout(left) {
            Ok(Message::Job(job)) => job(Err(Error::Away(reason.to_owned()))),
            Err(RecvTimeoutError::Timeout) => return false,
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return true,
        }
    }
}

enum Served {
    Stop,
    Lost(String),
}

fn serve(mut conn: Conn, queue: &Receiver<Message>) -> Served {
    loop {
        match queue.recv() {
            Err(_) | Ok(Message::Stop) => return Served::Stop,
            Ok(Message::Job(job)) => {
                if conn.is_closed() {
                    job(Err(Error::Away("the connection was lost".into())));
                    return Served::Lost("the connection was lost".into());
                }
                if catch_unwind(AssertUnwindSafe(|| job(Ok(&mut conn)))).is_err() {
                    log::error!("a database job panicked");
                    // It may have left a transaction open.
                    return Served::Lost("connecting again after an internal error".into());
                }
                if conn.is_closed() {
                    return Served::Lost("the connection was lost".into());
                }
            }
        }
    }
}

/// A connection for the command line, beside a server or without one.
pub struct CliDb {
    conn: Option<Conn>,
    /// Started by us because no server had it up; stopped again at the end.
    cluster: Option<Box<Cluster>>,
}

impl CliDb {
    /// Runs `job`.
    ///
    /// # Errors
    /// PostgreSQL's, in words.
    pub fn run<T>(&mut self, job: impl FnOnce(&mut Conn) -> Result<T, Error>) -> Result<T, String> {
        let conn = self.conn.as_mut().ok_or("the connection is closed")?;
        job(conn).map_err(|e| match e {
            Error::Unique { constraint } if constraint.contains("email") => {
                "there is an account with this address already".into()
            }
            Error::Unique { constraint } if constraint.contains("login") => "this login name is taken".into(),
            other => other.to_string(),
        })
    }
}

impl Drop for CliDb {
    fn drop(&mut self) {
        self.conn = None;
        if let Some(cluster) = &mut self.cluster {
            cluster.stop();
        }
    }
}

/// Connects for the command line; the one-server lock is not needed.
///
/// # Errors
/// What is wrong and what to do.
pub fn open_for_cli(settings: &Settings) -> Result<CliDb, String> {
    let mut place = Place::find(settings)?;
    let was_up = match &place {
        Place::Private(cluster) => cluster.is_up(),
        Place::Url(_) => true,
    };
    let mut conn = place.connect().map_err(|e| match e {
        NoConn::Away(why) | NoConn::Refused(why) => why,
    })?;
    migrate::run(&mut conn)?;
    let cluster = match place {
        Place::Private(cluster) if !was_up => Some(cluster),
        _ => None,
    };
    Ok(CliDb { conn: Some(conn), cluster })
}
