//! What happened: to VMs, on their screens, by whom.

use super::{Conn, Db, Error};
use jiff::Timestamp;

/// A viewer came or went.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Names the screen or terminal that was opened: its end has the same.
    pub visit: String,
    /// The VM.
    pub vmid: String,
    /// The viewer's account.
    pub user_id: Option<String>,
    /// `connect` or `disconnect`.
    pub kind: String,
    /// What lets him look: `owner`, `teacher`, `admin`, or which link.
    pub via: String,
    /// `vnc` or `serial`.
    pub console: String,
    /// The viewer's address.
    pub ip: String,
    /// At the end: bytes shown.
    pub bytes_to_browser: u64,
    /// At the end: bytes sent.
    pub bytes_to_vm: u64,
    /// At the end: why.
    pub reason: String,
    /// At the end: how long it was open.
    pub seconds: Option<u64>,
}

/// Something to write down.
#[derive(Debug, Clone)]
pub enum Event {
    /// A viewer came or went.
    Connection(Connection),
    /// Something that happened to a VM and changed nothing in its row.
    Vm {
        /// The VM.
        vmid: String,
        /// What, in a word or two.
        kind: &'static str,
        /// The rest.
        detail: String,
    },
    /// A line of the audit trail.
    Audit {
        /// Who.
        user_id: Option<String>,
        /// From where.
        ip: String,
        /// What was done.
        action: String,
        /// To what.
        target: String,
        /// What else there is to know.
        detail: String,
    },
}

/// Writes down what happened at `at`. Doing it again changes nothing: an answer that was lost does no harm.
///
/// # Errors
/// PostgreSQL's.
pub async fn write(db: &Db, at: Timestamp, event: Event) -> Result<(), Error> {
    let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    db.call(move |conn| match &event {
        Event::Connection(event) => {
            let seconds = event.seconds.map(|seconds| i32::try_from(seconds).unwrap_or(i32::MAX));
            let (down, up) = (bytes(event.bytes_to_browser), bytes(event.bytes_to_vm));
            let Connection { visit, vmid, user_id, kind, via, console, ip, reason, .. } = event;
            conn.execute(
                include_str!("../../sql/events/connection.sql"),
                &[&at, visit, vmid, user_id, kind, console, ip, &down, &up, reason, &seconds, via],
            )
            .map(drop)
        }
        Event::Vm { vmid, kind, detail } => insert_vm(conn, at, vmid, kind, detail),
        Event::Audit { user_id, ip, action, target, detail } => {
            insert_audit(conn, at, user_id.as_deref(), [ip, action, target, detail])
        }
    })
    .await
}

/// Notes how much has passed through screens that are open, by their visits: to browsers and to the VM.
///
/// # Errors
/// PostgreSQL's.
pub async fn running_totals(db: &Db, totals: Vec<(String, u64, u64)>) -> Result<(), Error> {
    let bytes = |count: &u64| i64::try_from(*count).unwrap_or(i64::MAX);
    db.call(move |conn| {
        let visits: Vec<&str> = totals.iter().map(|(visit, ..)| visit.as_str()).collect();
        let down: Vec<i64> = totals.iter().map(|(_, down, _)| bytes(down)).collect();
        let up: Vec<i64> = totals.iter().map(|(.., up)| bytes(up)).collect();
        conn.execute(include_str!("../../sql/events/running_totals.sql"), &[&visits, &down, &up]).map(drop)
    })
    .await
}

/// Ends in the log what was open when a former server ended without a word; how many there were. How much passed through them is what was
/// noted last.
///
/// # Errors
/// PostgreSQL's.
pub async fn end_former_visits(db: &Db) -> Result<u64, Error> {
    let sql = include_str!("../../sql/events/end_former_visits.sql");
    db.call(move |conn| conn.execute(sql, &[&"the server ended"])).await
}

/// A row of the recent connections.
#[derive(Debug, Clone)]
pub struct Recent {
    /// Its place in the order of events.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// The VM.
    pub vmid: String,
    /// The viewer's login name.
    pub user_login: Option<String>,
    /// `connect` or `disconnect`.
    pub kind: String,
    /// `vnc` or `serial`.
    pub console: String,
    /// The viewer's address.
    pub ip: String,
    /// Bytes shown.
    pub bytes_to_browser: i64,
    /// Bytes sent.
    pub bytes_to_vm: i64,
    /// Why it ended.
    pub reason: String,
    /// How long it was open, where it ended.
    pub seconds: Option<i32>,
    /// What let him look.
    pub via: String,
}

/// The newest events that have `words` (in lower case) in them, before one of them where `before` is given.
///
/// # Errors
/// PostgreSQL's.
pub async fn recent(db: &Db, words: String, limit: i64, before: Option<i64>) -> Result<Vec<Recent>, Error> {
    db.call(move |conn| {
        let rows = conn.query(include_str!("../../sql/events/recent.sql"), &[&limit, &before, &words])?;
        Ok(rows
            .iter()
            .map(|row| Recent {
                id: row.get(0),
                at: row.get(1),
                vmid: row.get(2),
                user_login: row.get(3),
                kind: row.get(4),
                console: row.get(5),
                ip: row.get(6),
                bytes_to_browser: row.get(7),
                bytes_to_vm: row.get(8),
                reason: row.get(9),
                seconds: row.get(10),
                via: row.get(11),
            })
            .collect())
    })
    .await
}

/// Something that happened to a VM.
#[derive(Debug, Clone)]
pub struct Happened {
    /// Its place in the order of events.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// What: a state, or QEMU's word.
    pub kind: String,
    /// In words.
    pub detail: String,
}

/// The newest events of a VM, before one of them where `before` is given.
///
/// # Errors
/// PostgreSQL's.
pub async fn of_vm(db: &Db, vmid: String, limit: i64, before: Option<i64>) -> Result<Vec<Happened>, Error> {
    db.call(move |conn| {
        let rows = conn.query(include_str!("../../sql/events/of_vm.sql"), &[&vmid, &limit, &before])?;
        let event =
            |row: &postgres::Row| Happened { id: row.get(0), at: row.get(1), kind: row.get(2), detail: row.get(3) };
        Ok(rows.iter().map(event).collect())
    })
    .await
}

/// What ended connections of a VM add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// When somebody last came or went.
    pub last_change: Option<Timestamp>,
    /// Bytes shown.
    pub bytes_to_browser: u64,
    /// Bytes sent.
    pub bytes_to_vm: u64,
}

/// Adds up a VM's connections.
///
/// # Errors
/// PostgreSQL's.
pub async fn summary(db: &Db, vmid: String) -> Result<Summary, Error> {
    db.call(move |conn| {
        let row = conn.query_opt(include_str!("../../sql/events/summary.sql"), &[&vmid])?.ok_or(Error::Lost)?;
        let bytes = |index: usize| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
        Ok(Summary { last_change: row.get(0), bytes_to_browser: bytes(1), bytes_to_vm: bytes(2) })
    })
    .await
}

/// A line of the audit trail that goes with a change: written in the change's own transaction, so there is never one without the other.
#[derive(Debug, Clone)]
pub struct Line {
    /// Who.
    pub user_id: Option<String>,
    /// From where.
    pub ip: String,
    /// What was done.
    pub action: &'static str,
    /// To what.
    pub target: String,
    /// What else there is to know.
    pub detail: String,
}

impl Line {
    pub(super) fn write(&self, conn: &mut Conn) -> Result<(), Error> {
        let Self { user_id, ip, action, target, detail } = self;
        insert_audit(conn, Timestamp::now(), user_id.as_deref(), [ip, action, target, detail])
    }
}

/// A line of the audit trail, on a connection at hand: what `action` was done to `target`, by whom, from where.
///
/// # Errors
/// PostgreSQL's.
pub fn audit_now(conn: &mut Conn, ip: &str, action: &str, target: &str, detail: &str) -> Result<(), Error> {
    insert_audit(conn, Timestamp::now(), None, [ip, action, target, detail])
}

fn insert_audit(conn: &mut Conn, at: Timestamp, user_id: Option<&str>, words: [&str; 4]) -> Result<(), Error> {
    let [ip, action, target, detail] = words;
    conn.execute(include_str!("../../sql/events/audit.sql"), &[&at, &user_id, &ip, &action, &target, &detail]).map(drop)
}

/// A line of the audit trail, as it is read.
#[derive(Debug, Clone)]
pub struct Audited {
    /// Its place in the trail.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who: a login name.
    pub user_login: Option<String>,
    /// From where.
    pub ip: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub target: String,
    /// In words.
    pub detail: String,
}

/// The newest lines that have `words` (in lower case) in them, before one of them where `before` is given.
///
/// # Errors
/// PostgreSQL's.
pub async fn audited(db: &Db, words: String, limit: i64, before: Option<i64>) -> Result<Vec<Audited>, Error> {
    db.call(move |conn| {
        let rows = conn.query(include_str!("../../sql/events/audit_list.sql"), &[&words, &limit, &before])?;
        Ok(rows
            .iter()
            .map(|row| Audited {
                id: row.get(0),
                at: row.get(1),
                user_login: row.get(2),
                ip: row.get(3),
                action: row.get(4),
                target: row.get(5),
                detail: row.get(6),
            })
            .collect())
    })
    .await
}

/// Why a VM is being stopped.
///
/// # Errors
/// PostgreSQL's.
pub async fn stopping_because(db: &Db, vmid: String) -> Result<Option<String>, Error> {
    db.call(move |conn| stopping_because_now(conn, &vmid)).await
}

/// As [`stopping_because`], on a connection at hand.
///
/// # Errors
/// PostgreSQL's.
pub fn stopping_because_now(conn: &mut Conn, vmid: &str) -> Result<Option<String>, Error> {
    Ok(conn.query_opt(include_str!("../../sql/events/stopping_because.sql"), &[&vmid])?.map(|row| row.get(0)))
}

/// A change of a VM, inside the transaction that makes it.
pub(super) fn vm_now(conn: &mut Conn, vmid: &str, kind: &str, detail: &str) -> Result<(), Error> {
    insert_vm(conn, Timestamp::now(), vmid, kind, detail)
}

fn insert_vm(conn: &mut Conn, at: Timestamp, vmid: &str, kind: &str, detail: &str) -> Result<(), Error> {
    conn.execute(include_str!("../../sql/events/vm.sql"), &[&at, &vmid, &kind, &detail]).map(drop)
}

/// What is kept for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trail {
    /// What happened to VMs.
    Vms,
    /// Who looked at them.
    Connections,
    /// Who changed what.
    Audit,
}

/// Removes at most `most` of the lines that are older than so many days, the oldest first; how many there were.
///
/// # Errors
/// PostgreSQL's.
pub async fn trim(db: &Db, trail: Trail, days: u32, most: i64) -> Result<u64, Error> {
    let sql = match trail {
        Trail::Vms => include_str!("../../sql/events/trim_vm_events.sql"),
        Trail::Connections => include_str!("../../sql/events/trim_connection_events.sql"),
        Trail::Audit => include_str!("../../sql/events/trim_audit.sql"),
    };
    let days = i32::try_from(days).unwrap_or(i32::MAX);
    db.call(move |conn| conn.execute(sql, &[&days, &most])).await
}
