//! When VMs were started and when they were last used, for limits that go on over restarts of the server.

use super::{Db, Error};
use crate::sys::process;
use jiff::Timestamp;

/// A moment of a VM's life, by the wall clock, which may be set, and by the host's uptime.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// As people tell it.
    pub at: Timestamp,
    /// In seconds since the boot of the VM's row; older versions noted none.
    pub up: Option<f64>,
}

impl Moment {
    /// This one.
    #[must_use]
    pub fn present() -> Self {
        Self { at: Timestamp::now(), up: process::uptime().ok().map(|up| up.as_secs_f64()) }
    }
}

/// Notes when a VM last had input.
///
/// # Errors
/// PostgreSQL's.
pub async fn set_last_input(db: &Db, vmid: String, moment: Moment) -> Result<(), Error> {
    let sql = include_str!("../../sql/vms/set_last_input.sql");
    db.call(move |conn| conn.execute(sql, &[&vmid, &moment.at, &moment.up]).map(drop)).await
}

/// When a VM was started, and when it last had input, as far as that was noted.
///
/// # Errors
/// PostgreSQL's.
pub async fn of(db: &Db, vmid: String) -> Result<[Option<Moment>; 2], Error> {
    db.call(move |conn| {
        let row = conn.query_opt(include_str!("../../sql/vms/moments.sql"), &[&vmid])?.ok_or(Error::Lost)?;
        let moment =
            |column: usize| row.get::<_, Option<Timestamp>>(column).map(|at| Moment { at, up: row.get(column + 1) });
        Ok([moment(0), moment(2)])
    })
    .await
}
