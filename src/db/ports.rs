//! Ports as rows: taken in the transaction that makes a VM, free again some time after its end.

use super::{Db, Error};
use std::ops::RangeInclusive;

/// A range of ports.
pub type Ports = RangeInclusive<u16>;

/// Adds the ports of the profiles' ranges (VNC and HTTP) that are not there yet.
///
/// # Errors
/// PostgreSQL's.
pub async fn seed(db: &Db, ranges: Vec<(Ports, Ports)>) -> Result<(), Error> {
    db.call(move |conn| {
        for (vnc, http) in &ranges {
            for (kind, range) in [("vnc", vnc), ("http", http)] {
                let (first, last) = (i32::from(*range.start()), i32::from(*range.end()));
                conn.execute(include_str!("../../sql/ports/seed.sql"), &[&kind, &first, &last])?;
            }
        }
        Ok(())
    })
    .await
}

/// How many ports of a kind there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// `vnc` or `http`.
    pub kind: String,
    /// Free now.
    pub free: i64,
    /// In use.
    pub used: i64,
    /// Cooling down.
    pub cooling: i64,
}

/// Counts them.
///
/// # Errors
/// PostgreSQL's.
pub async fn counts(db: &Db) -> Result<Vec<Count>, Error> {
    db.call(|conn| {
        let rows = conn.query(include_str!("../../sql/ports/counts.sql"), &[])?;
        Ok(rows
            .iter()
            .map(|row| Count { kind: row.get(0), free: row.get(1), used: row.get(2), cooling: row.get(3) })
            .collect())
    })
    .await
}
