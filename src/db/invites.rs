//! Invitations: codes that let a class sign up where sign-up needs one.

use super::{Conn, Db, Error};
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

/// Stores an invitation.
///
/// # Errors
/// PostgreSQL's.
pub fn create_now(conn: &mut Conn, code: [u8; 32], role: &str, uses: u32, days: u32) -> Result<(), Error> {
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let sql = include_str!("../../sql/invites/create.sql");
    conn.execute(sql, &[&code.as_slice(), &role, &number(uses), &number(days)])?;
    Ok(())
}
