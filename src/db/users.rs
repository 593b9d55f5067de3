//! Accounts.

use super::events::Line;
use super::{Conn, Db, Error, invites};
use jiff::Timestamp;
use postgres::Row;

/// An account, without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// 12 hex digits; `{uid}` in paths.
    pub id: String,
    /// The address, in lower case.
    pub email: String,
    /// The name shown and logged in with.
    pub login: String,
    /// `user`, `teacher` or `admin`.
    pub role: String,
    /// May not sign in.
    pub disabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

impl User {
    pub(super) fn from_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            email: row.get("email"),
            login: row.get("login"),
            role: row.get("role"),
            disabled: row.get("disabled"),
            created_at: row.get("created_at"),
        }
    }
}

/// An account to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The address.
    pub email: String,
    /// The login name.
    pub login: String,
    /// The role.
    pub role: String,
    /// The password's hash.
    pub phc: String,
}

/// Makes an account for somebody at `ip`, with its line in the audit trail; with an invitation, uses it up in the same transaction: `None` when
/// that is not valid (any more).
///
/// # Errors
/// [`Error::Unique`] for a taken address or login.
pub async fn create(db: &Db, new: NewUser, invite: Option<[u8; 32]>, ip: String) -> Result<Option<User>, Error> {
    db.call(move |conn| {
        conn.atomically(|conn| {
            if let Some(code) = invite
                && !invites::take_now(conn, &code)?
            {
                return Ok(None);
            }
            let user = create_now(conn, &new)?;
            let (user_id, target) = (Some(user.id.clone()), user.login.clone());
            Line { user_id, ip, action: "signup", target, detail: String::new() }.write(conn)?;
            Ok(Some(user))
        })
    })
    .await
}

/// As [`create`], on a connection at hand.
///
/// # Errors
/// As [`create`].
pub fn create_now(conn: &mut Conn, new: &NewUser) -> Result<User, Error> {
    let id = crate::random::hex_id();
    let params: [&(dyn postgres::types::ToSql + Sync); 5] = [&id, &new.email, &new.login, &new.role, &new.phc];
    let row = conn.query_opt(include_str!("../../sql/users/create.sql"), &params)?;
    row.map(|row| User::from_row(&row)).ok_or(Error::Lost)
}

/// The account of an address or login name (in lower case), with its password's hash.
///
/// # Errors
/// PostgreSQL's.
pub async fn by_email_or_login(db: &Db, name: String) -> Result<Option<(User, String)>, Error> {
    db.call(move |conn| by_email_or_login_now(conn, &name)).await
}

/// As [`by_email_or_login`], on a connection at hand.
///
/// # Errors
/// PostgreSQL's.
pub fn by_email_or_login_now(conn: &mut Conn, name: &str) -> Result<Option<(User, String)>, Error> {
    let row = conn.query_opt(include_str!("../../sql/users/by_email_or_login.sql"), &[&name])?;
    Ok(row.map(|row| (User::from_row(&row), row.get("password_phc"))))
}

/// Stores a new hash for the same password.
///
/// # Errors
/// PostgreSQL's.
pub async fn set_password(db: &Db, id: String, phc: String) -> Result<(), Error> {
    db.call(move |conn| {
        conn.execute(include_str!("../../sql/users/set_password.sql"), &[&id, &phc])?;
        Ok(())
    })
    .await
}

/// Sets another password and ends all sessions; in the caller's transaction.
///
/// # Errors
/// PostgreSQL's.
pub fn set_password_now(conn: &mut Conn, id: &str, phc: &str) -> Result<(), Error> {
    conn.execute(include_str!("../../sql/users/set_password.sql"), &[&id, &phc])?;
    conn.execute(include_str!("../../sql/sessions/delete_of_user.sql"), &[&id])?;
    Ok(())
}

/// Sets the role.
///
/// # Errors
/// PostgreSQL's.
pub fn set_role_now(conn: &mut Conn, id: &str, role: &str) -> Result<(), Error> {
    conn.execute(include_str!("../../sql/users/set_role.sql"), &[&id, &role])?;
    Ok(())
}

/// The login names behind ids.
///
/// # Errors
/// PostgreSQL's.
pub async fn logins(db: &Db, ids: Vec<String>) -> Result<Vec<(String, String)>, Error> {
    db.call(move |conn| {
        let rows = conn.query(include_str!("../../sql/users/logins.sql"), &[&ids])?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    })
    .await
}

/// The roles behind ids.
///
/// # Errors
/// PostgreSQL's.
pub async fn roles(db: &Db, ids: Vec<String>) -> Result<Vec<(String, String)>, Error> {
    db.call(move |conn| {
        let rows = conn.query(include_str!("../../sql/users/roles.sql"), &[&ids])?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    })
    .await
}

/// All accounts, oldest first.
///
/// # Errors
/// PostgreSQL's.
pub fn list_now(conn: &mut Conn) -> Result<Vec<User>, Error> {
    Ok(conn.query(include_str!("../../sql/users/list.sql"), &[])?.iter().map(User::from_row).collect())
}
