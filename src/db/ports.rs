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

/// How many ports of a kind a profile has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The profile.
    pub profile: String,
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
pub async fn counts(db: &Db, profiles: Vec<(String, Ports, Ports)>) -> Result<Vec<Count>, Error> {
    db.call(move |conn| {
        let mut counts = Vec::new();
        for (profile, vnc, http) in &profiles {
            let [a, b, c, d] = [vnc.start(), vnc.end(), http.start(), http.end()].map(|port| i32::from(*port));
            for row in conn.query(include_str!("../../sql/ports/counts.sql"), &[&a, &b, &c, &d])? {
                let profile = profile.clone();
                counts.push(Count {
                    profile,
                    kind: row.get(0),
                    free: row.get(1),
                    used: row.get(2),
                    cooling: row.get(3),
                });
            }
        }
        Ok(counts)
    })
    .await
}
