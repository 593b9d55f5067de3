//! Alerts about the host: what was told, from when to when.

use super::{Db, Error};
use jiff::Timestamp;

/// Alerts that are kept.
const KEPT: i64 = 10_000;

/// An alert.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertRow {
    /// Its place in the order of alerts; not looked at when it is written.
    pub id: i64,
    /// What it is about.
    pub rule: String,
    /// Which of them.
    pub subject: String,
    /// What was seen last.
    pub value: f64,
    /// What is still good.
    pub threshold: f64,
    /// As people were told.
    pub text: String,
    /// When it was first told.
    pub since: Timestamp,
    /// When it was over.
    pub ended: Option<Timestamp>,
}

/// Writes an alert down, or how it went on. The same may be written twice, and late.
///
/// # Errors
/// PostgreSQL's.
pub async fn put(db: &Db, alert: AlertRow) -> Result<(), Error> {
    db.call(move |conn| {
        let AlertRow { rule, subject, value, threshold, text, since, ended, .. } = &alert;
        conn.execute(include_str!("../../sql/alerts/put.sql"), &[rule, subject, value, threshold, text, since, ended])?;
        conn.execute(include_str!("../../sql/alerts/trim.sql"), &[&KEPT])?;
        Ok(())
    })
    .await
}

/// Ends what an earlier server left open: nobody watched it to its end.
///
/// # Errors
/// PostgreSQL's.
pub async fn end_former(db: &Db, before: Timestamp) -> Result<(), Error> {
    db.call(move |conn| {
        conn.execute(include_str!("../../sql/alerts/end_former.sql"), &[&before])?;
        Ok(())
    })
    .await
}

/// The newest alerts, before one of them where `before` is given.
///
/// # Errors
/// PostgreSQL's.
pub async fn recent(db: &Db, words: String, limit: i64, before: Option<i64>) -> Result<Vec<AlertRow>, Error> {
    db.call(move |conn| {
        let rows = conn.query(include_str!("../../sql/alerts/recent.sql"), &[&limit, &before, &words])?;
        Ok(rows
            .iter()
            .map(|row| AlertRow {
                id: row.get(0),
                rule: row.get(1),
                subject: row.get(2),
                value: row.get(3),
                threshold: row.get(4),
                text: row.get(5),
                since: row.get(6),
                ended: row.get(7),
            })
            .collect())
    })
    .await
}
