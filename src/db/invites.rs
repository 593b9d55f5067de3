//! Invitations: codes that let a class sign up where sign-up needs one.

use super::events::Line;
use super::{Conn, Db, Error};
use jiff::Timestamp;
use postgres::Row;
use ring::digest;

/// What is stored of a code. It is long and random, so a plain hash is enough.
#[must_use]
pub fn code_hash(code: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, code.trim().as_bytes()).as_ref());
    hash
}

/// The role a code gives, if it is valid; it is not used up.
///
/// # Errors
/// PostgreSQL's.
pub async fn peek(db: &Db, code: [u8; 32]) -> Result<Option<String>, Error> {
    db.call(move |conn| {
        let row = conn.query_opt(include_str!("../../sql/invites/peek.sql"), &[&code.as_slice()])?;
        Ok(row.map(|row| row.get(0)))
    })
    .await
}

/// Uses a code once; false when it is not valid (any more).
///
/// # Errors
/// PostgreSQL's.
pub fn take_now(conn: &mut Conn, code: &[u8; 32]) -> Result<bool, Error> {
    Ok(conn.query_opt(include_str!("../../sql/invites/take.sql"), &[&code.as_slice()])?.is_some())
}

/// An invitation to be stored.
#[derive(Debug, Clone)]
pub struct NewInvite {
    /// What is stored of its code.
    pub code: [u8; 32],
    /// The role it gives.
    pub role: String,
    /// How many may sign up with it.
    pub uses: u32,
    /// For how many days.
    pub days: u32,
    /// What it is for.
    pub note: String,
    /// The account that made it; none where that was the command line.
    pub by: Option<String>,
}

/// An invitation, without its code.
#[derive(Debug, Clone)]
pub struct Invite {
    /// 12 hex digits.
    pub id: String,
    /// The role it gives.
    pub role: String,
    /// How many could sign up with it.
    pub uses: i32,
    /// How many still can.
    pub uses_left: i32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// What it is for.
    pub note: String,
    /// Who made it.
    pub created_by: Option<String>,
}

impl Invite {
    fn from_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            role: row.get("role"),
            uses: row.get("uses"),
            uses_left: row.get("uses_left"),
            created_at: row.get("created_at"),
            expires_at: row.get("expires_at"),
            note: row.get("note"),
            created_by: row.get("created_by"),
        }
    }
}

/// Stores an invitation, unless there are `most` already (0 is no limit): `None` then. The line is about its id.
///
/// # Errors
/// PostgreSQL's.
pub async fn create(db: &Db, new: NewInvite, most: u32, line: Line) -> Result<Option<Invite>, Error> {
    db.call(move |conn| {
        conn.atomically(|conn| {
            let made = create_now(conn, &new, most)?;
            if let Some(invite) = &made {
                Line { target: invite.id.clone(), ..line }.write(conn)?;
            }
            Ok(made)
        })
    })
    .await
}

/// As [`create`], on a connection at hand.
///
/// # Errors
/// As [`create`].
pub fn create_now(conn: &mut Conn, new: &NewInvite, most: u32) -> Result<Option<Invite>, Error> {
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    conn.execute(include_str!("../../sql/invites/purge.sql"), &[])?;
    let row = conn.query_opt(
        include_str!("../../sql/invites/create.sql"),
        &[
            &crate::random::hex_id(),
            &new.code.as_slice(),
            &new.role,
            &number(new.uses),
            &number(new.days),
            &new.note,
            &new.by,
            &i64::from(most),
        ],
    )?;
    Ok(row.as_ref().map(Invite::from_row))
}

/// Those that have not ended, newest first.
///
/// # Errors
/// PostgreSQL's.
pub async fn list(db: &Db) -> Result<Vec<Invite>, Error> {
    db.call(|conn| {
        let rows = conn.query(include_str!("../../sql/invites/list.sql"), &[])?;
        Ok(rows.iter().map(Invite::from_row).collect())
    })
    .await
}

/// Takes one back; its note, if it was there, which the line gets too.
///
/// # Errors
/// PostgreSQL's.
pub async fn delete(db: &Db, id: String, line: Line) -> Result<Option<String>, Error> {
    db.call(move |conn| {
        conn.atomically(|conn| {
            let row = conn.query_opt(include_str!("../../sql/invites/delete.sql"), &[&id])?;
            let Some(note) = row.map(|row| row.get::<_, String>(0)) else { return Ok(None) };
            Line { detail: note.clone(), ..line }.write(conn)?;
            Ok(Some(note))
        })
    })
    .await
}
