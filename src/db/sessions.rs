//! Sessions, by the keyed hashes of their tokens.

use super::events::Line;
use super::users::User;
use super::{Db, Error};
use jiff::Timestamp;

/// A session to be stored.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// The keyed hash of its token.
    pub token: [u8; 32],
    /// Whose it is.
    pub user: User,
    /// When it ends.
    pub expires: Timestamp,
    /// Where it was begun from.
    pub ip: String,
    /// What began it, for the audit trail: `login`; nothing for an account that was just made, whose line is there.
    pub action: &'static str,
}

/// Stores a session with its line in the audit trail: both or neither, and in one
/// statement, because a whole class signs in within a minute.
///
/// # Errors
/// PostgreSQL's.
pub async fn create(db: &Db, new: NewSession) -> Result<(), Error> {
    db.call(move |conn| {
        let NewSession { token, user, expires, ip, action } = &new;
        let sql = include_str!("../../sql/sessions/create.sql");
        conn.execute(sql, &[&token.as_slice(), &user.id, expires, ip, action, &user.login])?;
        Ok(())
    })
    .await
}

/// The account of a session that has not ended, and when it will.
///
/// # Errors
/// PostgreSQL's.
pub async fn find(db: &Db, token: [u8; 32]) -> Result<Option<(User, Timestamp)>, Error> {
    db.call(move |conn| {
        let row = conn.query_opt(include_str!("../../sql/sessions/find.sql"), &[&token.as_slice()])?;
        Ok(row.map(|row| (User::from_row(&row), row.get("expires_at"))))
    })
    .await
}

/// Those of these sessions that have not ended, with their accounts' roles.
///
/// # Errors
/// PostgreSQL's.
pub async fn alive(db: &Db, tokens: Vec<[u8; 32]>) -> Result<Vec<([u8; 32], String)>, Error> {
    db.call(move |conn| {
        let tokens: Vec<&[u8]> = tokens.iter().map(<[u8; 32]>::as_slice).collect();
        let rows = conn.query(include_str!("../../sql/sessions/alive.sql"), &[&tokens])?;
        Ok(rows.iter().filter_map(|row| Some((row.get::<_, &[u8]>(0).try_into().ok()?, row.get(1)))).collect())
    })
    .await
}

/// Ends a session, with its line in the audit trail; one that has ended is no error.
///
/// # Errors
/// PostgreSQL's.
pub async fn delete(db: &Db, token: [u8; 32], line: Line) -> Result<(), Error> {
    db.call(move |conn| {
        conn.atomically(|conn| {
            conn.execute(include_str!("../../sql/sessions/delete.sql"), &[&token.as_slice()])?;
            line.write(conn)
        })
    })
    .await
}

/// Sets another password, with its line in the audit trail; ends all other sessions of the user and returns them.
///
/// # Errors
/// PostgreSQL's.
pub async fn change_password(
    db: &Db,
    (user, phc): (String, String),
    keep: [u8; 32],
    line: Line,
) -> Result<Vec<[u8; 32]>, Error> {
    db.call(move |conn| {
        conn.atomically(|conn| {
            conn.execute(include_str!("../../sql/users/set_password.sql"), &[&user, &phc])?;
            let rows = conn.query(include_str!("../../sql/sessions/delete_others.sql"), &[&user, &keep.as_slice()])?;
            line.write(conn)?;
            Ok(rows.iter().filter_map(|row| <[u8; 32]>::try_from(row.get::<_, &[u8]>(0)).ok()).collect())
        })
    })
    .await
}
