//! What happened: to VMs, on their screens, by whom.

use super::{Conn, Db, Error};
use jiff::Timestamp;

/// A viewer came or went.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The VM.
    pub vmid: String,
    /// The viewer's account.
    pub user_id: Option<String>,
    /// `connect` or `disconnect`.
    pub kind: String,
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

/// Writes a [`Connection`] down.
///
/// # Errors
/// PostgreSQL's.
pub async fn connection(db: &Db, event: Connection) -> Result<(), Error> {
    db.call(move |conn| {
        let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        conn.execute(
            include_str!("../../sql/events/connection.sql"),
            &[
                &event.vmid,
                &event.user_id,
                &event.kind,
                &event.console,
                &event.ip,
                &bytes(event.bytes_to_browser),
                &bytes(event.bytes_to_vm),
                &event.reason,
                &event.seconds.map(|seconds| i32::try_from(seconds).unwrap_or(i32::MAX)),
            ],
        )?;
        Ok(())
    })
    .await
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
}

/// The newest events, before one of them where `before` is given.
///
/// # Errors
/// PostgreSQL's.
pub async fn recent(db: &Db, limit: i64, before: Option<i64>) -> Result<Vec<Recent>, Error> {
    db.call(move |conn| {
        let rows = conn.query(include_str!("../../sql/events/recent.sql"), &[&limit, &before])?;
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
            })
            .collect())
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

/// A line of the audit trail.
///
/// # Errors
/// PostgreSQL's.
pub async fn audit(
    db: &Db,
    user: Option<String>,
    ip: String,
    action: String,
    target: String,
    detail: String,
) -> Result<(), Error> {
    db.call(move |conn| audit_now(conn, user, &ip, &action, &target, &detail)).await
}

/// As [`audit`], on a connection at hand.
///
/// # Errors
/// PostgreSQL's.
pub fn audit_now(
    conn: &mut Conn,
    user: Option<String>,
    ip: &str,
    action: &str,
    target: &str,
    detail: &str,
) -> Result<(), Error> {
    conn.execute(include_str!("../../sql/events/audit.sql"), &[&user, &ip, &action, &target, &detail])?;
    Ok(())
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

/// Something that happened to a VM and changed nothing in its row.
///
/// # Errors
/// PostgreSQL's.
pub async fn vm(db: &Db, vmid: String, kind: String, detail: String) -> Result<(), Error> {
    db.call(move |conn| vm_now(conn, &vmid, &kind, &detail)).await
}

/// A change of a VM, inside the transaction that makes it.
pub(super) fn vm_now(conn: &mut Conn, vmid: &str, kind: &str, detail: &str) -> Result<(), Error> {
    conn.execute(include_str!("../../sql/events/vm.sql"), &[&vmid, &kind, &detail])?;
    Ok(())
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
