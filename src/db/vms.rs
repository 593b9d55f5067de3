//! VMs: rows that change state by compare-and-set, each change with an event in the same transaction.
//!
//! One live VM a user is a unique partial index, a port is a row taken in the transaction that makes the VM: two clicks at once, or two
//! hundred, are decided by PostgreSQL.

use super::moments::Moment;
use super::{Conn, Db, Error, events};
use jiff::Timestamp;
use postgres::Row;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmState {
    /// Being started.
    Starting,
    /// Its screen can be shown.
    Running,
    /// On its way out.
    Stopping,
    /// Ended as it should.
    Stopped,
    /// Ended otherwise.
    Failed,
}

impl VmState {
    fn from_text(text: &str) -> Self {
        match text {
            "starting" => Self::Starting,
            "running" => Self::Running,
            "stopping" => Self::Stopping,
            "stopped" => Self::Stopped,
            // The column's check allows nothing else.
            _ => Self::Failed,
        }
    }

    /// True while the VM holds its ports.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Stopping)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A VM's row, with its owner's login name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// 12 hex digits.
    pub vmid: String,
    /// The owner's id.
    pub user_id: String,
    /// The owner's login name.
    pub user_login: String,
    /// The owner's role.
    pub user_role: String,
    /// The profile's name.
    pub profile: String,
    /// The image's file name.
    pub iso: String,
    /// `ephemeral` or `persistent`.
    pub persistence: String,
    /// The kept disk it has.
    pub disk: Option<String>,
    /// That disk's size in GiB.
    pub disk_gb: Option<u32>,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// The port of its range, used where the profile says `vnc = "tcp"`.
    pub vnc_port: u16,
    /// The name of its websocket path.
    pub http_port: u16,
    /// Where it is in its life.
    pub state: VmState,
    /// QEMU's process id.
    pub pid: Option<u32>,
    /// Its start time in clock ticks since boot.
    pub pid_start: Option<u64>,
    /// The boot of the host that it belongs to.
    pub boot_id: Option<String>,
    /// `kvm` or `tcg`.
    pub accel: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its screen could be shown.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it ended.
    pub exit: Option<String>,
}

impl VmRow {
    fn from_row(row: &Row) -> Self {
        let number = |name: &str| u32::try_from(row.get::<_, i32>(name)).unwrap_or(0);
        let port = |name: &str| u16::try_from(row.get::<_, i32>(name)).unwrap_or(0);
        Self {
            vmid: row.get("vmid"),
            user_id: row.get("user_id"),
            user_login: row.get("login"),
            user_role: row.get("role"),
            profile: row.get("profile"),
            iso: row.get("iso"),
            persistence: row.get("persistence"),
            disk: row.get("disk"),
            disk_gb: row.get::<_, Option<i32>>("disk_gb").and_then(|gb| u32::try_from(gb).ok()),
            memory_mb: number("memory_mb"),
            cpus: number("cpus"),
            vnc_port: port("vnc_port"),
            http_port: port("http_port"),
            state: VmState::from_text(row.get("state")),
            pid: row.get::<_, Option<i32>>("pid").and_then(|pid| u32::try_from(pid).ok()),
            pid_start: row.get::<_, Option<i64>>("pid_start").and_then(|start| u64::try_from(start).ok()),
            boot_id: row.get("boot_id"),
            accel: row.get("accel"),
            created_at: row.get("created_at"),
            started_at: row.get("started_at"),
            ended_at: row.get("ended_at"),
            exit: row.get("exit"),
        }
    }
}

/// A VM to be made.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its id.
    pub vmid: String,
    /// Its owner.
    pub user_id: String,
    /// The profile's name.
    pub profile: String,
    /// The image's file name.
    pub iso: String,
    /// `ephemeral` or `persistent`.
    pub persistence: String,
    /// The kept disk, and its size in GiB.
    pub disk: Option<(String, u32)>,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Where its VNC port is taken from.
    pub vnc_range: RangeInclusive<u16>,
    /// Where its HTTP port is taken from.
    pub http_range: RangeInclusive<u16>,
}

/// What became of a wish.
#[derive(Debug, Clone)]
pub enum Reserved {
    /// A row in `starting`, with ports.
    New(VmRow),
    /// The user's VM runs already.
    Running(VmRow),
    /// The user's VM is starting or stopping.
    Busy(VmRow),
    /// No port is free.
    NoPorts {
        /// `vnc` or `http`.
        kind: &'static str,
        /// Seconds until one that rests is free, if one does.
        free_in: Option<u64>,
    },
}

/// Takes row and ports, or tells what is in the way.
///
/// # Errors
/// PostgreSQL's.
pub async fn reserve(db: &Db, wish: Wish) -> Result<Reserved, Error> {
    db.call(move |conn| match conn.atomically(|conn| reserve_now(conn, &wish)) {
        Ok(reserved) => Ok(reserved),
        Err(Stopped::NoPorts { kind, free_in }) => Ok(Reserved::NoPorts { kind, free_in }),
        Err(Stopped::By(error)) => Err(error),
    })
    .await
}

/// Why a reservation was rolled back.
enum Stopped {
    NoPorts { kind: &'static str, free_in: Option<u64> },
    By(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::By(error)
    }
}

fn reserve_now(conn: &mut Conn, wish: &Wish) -> Result<Reserved, Stopped> {
    if let Some(row) = live_now(conn, &wish.user_id)? {
        return Ok(in_the_way(row));
    }
    let vnc_port = take_port(conn, &wish.vmid, "vnc", &wish.vnc_range)?;
    let http_port = take_port(conn, &wish.vmid, "http", &wish.http_range)?;
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let (disk, disk_gb) = wish.disk.as_ref().map(|(name, gb)| (name, number(*gb))).unzip();
    let made = conn.query_opt(
        include_str!("../../sql/vms/reserve.sql"),
        &[
            &wish.vmid,
            &wish.user_id,
            &wish.profile,
            &wish.iso,
            &wish.persistence,
            &number(wish.memory_mb),
            &number(wish.cpus),
            &vnc_port,
            &http_port,
            &disk,
            &disk_gb,
        ],
    )?;
    if made.is_none() {
        // Somebody was quicker in the moment between the two statements.
        conn.execute(include_str!("../../sql/ports/release.sql"), &[&wish.vmid, &0.0])?;
        return live_now(conn, &wish.user_id)?.map(in_the_way).ok_or(Stopped::By(Error::Lost));
    }
    events::vm_now(conn, &wish.vmid, "starting", &wish.iso)?;
    let row = by_id_now(conn, &wish.vmid)?.ok_or(Error::Lost)?;
    Ok(Reserved::New(row))
}

fn in_the_way(row: VmRow) -> Reserved {
    if row.state == VmState::Running { Reserved::Running(row) } else { Reserved::Busy(row) }
}

fn take_port(conn: &mut Conn, vmid: &str, kind: &'static str, range: &RangeInclusive<u16>) -> Result<i32, Stopped> {
    let (first, last) = (i32::from(*range.start()), i32::from(*range.end()));
    let row = conn.query_opt(include_str!("../../sql/ports/take.sql"), &[&vmid, &kind, &first, &last])?;
    if let Some(row) = row {
        return Ok(row.get(0));
    }
    let resting = conn.query_opt(include_str!("../../sql/ports/next_free.sql"), &[&kind, &first, &last])?;
    let free_in = resting.map(|row| row.get::<_, i64>(0).unsigned_abs());
    Err(Stopped::NoPorts { kind, free_in })
}

/// Writes a live VM's process down, so that a sweep finds it.
///
/// # Errors
/// PostgreSQL's.
pub async fn set_process(
    db: &Db,
    vmid: String,
    pid: u32,
    start: u64,
    boot_id: String,
    accel: Option<String>,
) -> Result<Option<VmRow>, Error> {
    db.call(move |conn| {
        let (pid, start) = process(pid, start);
        let sql = include_str!("../../sql/vms/set_process.sql");
        conn.execute(sql, &[&vmid, &pid, &start, &boot_id, &accel])?;
        by_id_now(conn, &vmid)
    })
    .await
}

/// Strikes the process of a VM that runs, before it is ended for another; false when the VM does not run any more.
///
/// # Errors
/// PostgreSQL's.
pub async fn strike_process(db: &Db, vmid: String) -> Result<bool, Error> {
    db.call(move |conn| Ok(conn.execute(include_str!("../../sql/vms/strike_process.sql"), &[&vmid])? == 1)).await
}

/// `starting` becomes `running`; `None` when it was not starting any more.
///
/// # Errors
/// PostgreSQL's.
pub async fn mark_running(
    db: &Db,
    vmid: String,
    pid: u32,
    start: u64,
    boot_id: String,
    accel: String,
) -> Result<Option<VmRow>, Error> {
    db.call(move |conn| {
        conn.atomically(|conn| {
            let (pid, start) = process(pid, start);
            let sql = include_str!("../../sql/vms/mark_running.sql");
            if conn.execute(sql, &[&vmid, &pid, &start, &boot_id, &accel, &Moment::present().up])? == 0 {
                return Ok(None);
            }
            events::vm_now(conn, &vmid, "running", &accel)?;
            by_id_now(conn, &vmid)
        })
    })
    .await
}

fn process(pid: u32, start: u64) -> (i32, i64) {
    (i32::try_from(pid).unwrap_or(0), i64::try_from(start).unwrap_or(0))
}

/// Compare-and-set of the state; `None` when it was in none of `from`.
///
/// # Errors
/// PostgreSQL's.
pub async fn change_state(
    db: &Db,
    vmid: String,
    from: Vec<VmState>,
    to: VmState,
    reason: String,
) -> Result<Option<VmRow>, Error> {
    db.call(move |conn| {
        conn.atomically(|conn| {
            let from: Vec<&str> = from.iter().map(|state| state.text()).collect();
            let sql = include_str!("../../sql/vms/change_state.sql");
            if conn.execute(sql, &[&vmid, &from, &to.text()])? == 0 {
                return Ok(None);
            }
            events::vm_now(conn, &vmid, to.text(), &reason)?;
            by_id_now(conn, &vmid)
        })
    })
    .await
}

/// Calls a VM stopping because of `why`, if it still has the process that is about to be ended; false when it has not.
///
/// # Errors
/// PostgreSQL's.
pub fn begin_stop_now(conn: &mut Conn, vmid: &str, pid: u32, start: u64, why: &str) -> Result<bool, Error> {
    let (pid, start) = process(pid, start);
    let changed = conn.execute(include_str!("../../sql/vms/begin_stop.sql"), &[&vmid, &pid, &start])? == 1;
    if changed {
        events::vm_now(conn, vmid, VmState::Stopping.text(), why)?;
    }
    Ok(changed)
}

/// Ends a VM and lets its ports cool down. Doing it twice is as once. Returns the row as it is then.
///
/// # Errors
/// PostgreSQL's.
pub async fn finish(
    db: &Db,
    vmid: String,
    state: VmState,
    exit: String,
    cooldown: Duration,
) -> Result<Option<VmRow>, Error> {
    db.call(move |conn| finish_now(conn, &vmid, state, &exit, cooldown)).await
}

/// As [`finish`], on a connection at hand.
///
/// # Errors
/// PostgreSQL's.
pub fn finish_now(
    conn: &mut Conn,
    vmid: &str,
    state: VmState,
    exit: &str,
    cooldown: Duration,
) -> Result<Option<VmRow>, Error> {
    conn.atomically(|conn| {
        let changed = conn.execute(include_str!("../../sql/vms/finish.sql"), &[&vmid, &state.text(), &exit])?;
        if changed > 0 {
            conn.execute(include_str!("../../sql/ports/release.sql"), &[&vmid, &cooldown.as_secs_f64()])?;
            events::vm_now(conn, vmid, state.text(), exit)?;
        }
        by_id_now(conn, vmid)
    })
}

/// Takes a reservation back: no row, and its ports rest, for they may be why it failed (another program listens there), and the next launch
/// would be given the same ones. For something that never was, nothing.
///
/// # Errors
/// PostgreSQL's.
pub async fn forget(db: &Db, vmid: String, cooldown: Duration) -> Result<(), Error> {
    db.call(move |conn| {
        conn.atomically(|conn| {
            conn.execute(include_str!("../../sql/ports/release.sql"), &[&vmid, &cooldown.as_secs_f64()])?;
            if conn.execute(include_str!("../../sql/vms/forget.sql"), &[&vmid])? > 0 {
                events::vm_now(conn, &vmid, "undone", "the start was taken back")?;
            }
            Ok(())
        })
    })
    .await
}

/// One VM.
///
/// # Errors
/// PostgreSQL's.
pub async fn by_id(db: &Db, vmid: String) -> Result<Option<VmRow>, Error> {
    db.call(move |conn| by_id_now(conn, &vmid)).await
}

/// As [`by_id`], on a connection at hand.
///
/// # Errors
/// PostgreSQL's.
pub fn by_id_now(conn: &mut Conn, vmid: &str) -> Result<Option<VmRow>, Error> {
    Ok(conn.query_opt(include_str!("../../sql/vms/by_id.sql"), &[&vmid])?.map(|row| VmRow::from_row(&row)))
}

/// The user's live VM.
///
/// # Errors
/// PostgreSQL's.
pub async fn live_of_user(db: &Db, user: String) -> Result<Option<VmRow>, Error> {
    db.call(move |conn| live_now(conn, &user)).await
}

fn live_now(conn: &mut Conn, user: &str) -> Result<Option<VmRow>, Error> {
    Ok(conn.query_opt(include_str!("../../sql/vms/live_of_user.sql"), &[&user])?.map(|row| VmRow::from_row(&row)))
}

/// All live VMs, oldest first.
///
/// # Errors
/// PostgreSQL's.
pub async fn live_all(db: &Db) -> Result<Vec<VmRow>, Error> {
    db.call(live_all_now).await
}

/// As [`live_all`], on a connection at hand.
///
/// # Errors
/// PostgreSQL's.
pub fn live_all_now(conn: &mut Conn) -> Result<Vec<VmRow>, Error> {
    rows(conn.query(include_str!("../../sql/vms/live_all.sql"), &[]))
}

/// Where a page of VMs begins: behind a VM that was (or was not) live and was made at a time.
pub type Before = Option<(bool, Timestamp)>;

/// A page of a user's VMs, live ones first, then newest first.
///
/// # Errors
/// PostgreSQL's.
pub async fn list_of_user(db: &Db, user: String, limit: i64, before: Before) -> Result<Vec<VmRow>, Error> {
    let (live, at) = before.unzip();
    db.call(move |conn| rows(conn.query(include_str!("../../sql/vms/list_of_user.sql"), &[&user, &limit, &live, &at])))
        .await
}

/// A page of everybody's VMs, in the same order.
///
/// # Errors
/// PostgreSQL's.
pub async fn list_all(db: &Db, limit: i64, before: Before, teacher: Option<String>) -> Result<Vec<VmRow>, Error> {
    db.call(move |conn| list_all_now(conn, limit, before, teacher)).await
}

/// As [`list_all`], on a connection at hand.
///
/// # Errors
/// PostgreSQL's.
pub fn list_all_now(conn: &mut Conn, limit: i64, before: Before, teacher: Option<String>) -> Result<Vec<VmRow>, Error> {
    let (live, at) = before.unzip();
    rows(conn.query(include_str!("../../sql/vms/list_all.sql"), &[&limit, &live, &at, &teacher]))
}

fn rows(rows: Result<Vec<Row>, Error>) -> Result<Vec<VmRow>, Error> {
    Ok(rows?.iter().map(VmRow::from_row).collect())
}
