//! Accounts as administrators see and change them.

use super::events::Line;
use super::users::User;
use super::{Conn, Db, Error};
use jiff::Timestamp;
use postgres::Row;

/// An account, and what only administrators see of it.
#[derive(Debug, Clone)]
pub struct Account {
    /// The account.
    pub user: User,
    /// When somebody was last signed in to it, within a minute or so.
    pub last_seen: Option<Timestamp>,
    /// What it may keep, in GiB; without one the settings' limits hold.
    pub quota_gb: Option<i32>,
}

impl Account {
    fn from_row(row: &Row) -> Self {
        Self { user: User::from_row(row), last_seen: row.get("last_seen_at"), quota_gb: row.get("quota_gb") }
    }
}

/// Accounts that have `words` (in lower case) in name or address, newest first, after the one with the id `before`.
///
/// # Errors
/// PostgreSQL's.
pub async fn search(db: &Db, words: String, limit: i64, before: Option<String>) -> Result<Vec<Account>, Error> {
    db.call(move |conn| {
        let rows = conn.query(include_str!("../../sql/users/search.sql"), &[&words, &limit, &before])?;
        Ok(rows.iter().map(Account::from_row).collect())
    })
    .await
}

/// One account.
///
/// # Errors
/// PostgreSQL's.
pub async fn by_id(db: &Db, id: String) -> Result<Option<Account>, Error> {
    db.call(move |conn| {
        let row = conn.query_opt(include_str!("../../sql/users/by_id.sql"), &[&id])?;
        Ok(row.as_ref().map(Account::from_row))
    })
    .await
}

/// The quota of an account in GiB, if it has one of its own.
///
/// # Errors
/// PostgreSQL's.
pub async fn quota(db: &Db, id: String) -> Result<Option<u64>, Error> {
    db.call(move |conn| {
        let row = conn.query_opt(include_str!("../../sql/users/quota.sql"), &[&id])?;
        Ok(row.and_then(|row| row.get::<_, Option<i32>>(0)).and_then(|gb| u64::try_from(gb).ok()))
    })
    .await
}

/// What is changed of an account; `None` stays as it is.
#[derive(Debug, Clone)]
pub struct Change {
    /// The role.
    pub role: Option<String>,
    /// Whether it may sign in.
    pub disabled: Option<bool>,
    /// The quota in GiB; 0 takes it away.
    pub quota_gb: Option<u32>,
}

impl Change {
    /// In words, for the log and the audit trail.
    #[must_use]
    pub fn words(&self) -> String {
        let mut said = Vec::new();
        said.extend(self.role.as_ref().map(|role| format!("role {role}")));
        said.extend(self.disabled.map(|off| if off { "disabled".to_owned() } else { "enabled".to_owned() }));
        said.extend(self.quota_gb.map(|gb| if gb == 0 { "default quota".into() } else { format!("quota {gb} GB") }));
        said.join(", ")
    }
}

/// What became of a [`Change`].
#[derive(Debug)]
pub enum Changed {
    /// The account as it is now, and the sessions that ended with it.
    Yes(Account, Vec<[u8; 32]>),
    /// There is no such account.
    Missing,
    /// Who asked is no administrator any more.
    NoRight,
}

/// Changes an account for the administrator `by`, who does it from `ip`. Who loses rights has to sign in again; who is disabled loses his links too.
///
/// # Errors
/// PostgreSQL's.
pub async fn change(db: &Db, (by, ip): (String, String), id: String, change: Change) -> Result<Changed, Error> {
    db.call(move |conn| conn.atomically(|conn| change_now(conn, (&by, &ip), &id, &change))).await
}

fn change_now(conn: &mut Conn, (by, ip): (&str, &str), id: &str, change: &Change) -> Result<Changed, Error> {
    if !is_admin(conn, by)? {
        return Ok(Changed::NoRight);
    }
    let Some(before) = conn.query_opt(include_str!("../../sql/users/lock.sql"), &[&id])? else {
        return Ok(Changed::Missing);
    };
    let before: String = before.get(0);
    let quota = change.quota_gb.map(|gb| i32::try_from(gb).unwrap_or(i32::MAX));
    let sql = include_str!("../../sql/users/change.sql");
    let row = conn.query_opt(sql, &[&id, &change.role, &change.disabled, &quota])?.ok_or(Error::Lost)?;
    let account = Account::from_row(&row);
    let rank = |role: &str| ["user", "teacher", "admin"].iter().position(|known| *known == role);
    if change.disabled == Some(true) {
        conn.execute(include_str!("../../sql/shares/delete_of_user.sql"), &[&id])?;
    }
    let less = change.disabled == Some(true) || rank(&account.user.role) < rank(&before);
    let ended = if less { end_sessions(conn, id)? } else { Vec::new() };
    let (user_id, target) = (Some(by.to_owned()), account.user.login.clone());
    Line { user_id, ip: ip.to_owned(), action: "change account", target, detail: change.words() }.write(conn)?;
    Ok(Changed::Yes(account, ended))
}

/// Whether this is an administrator, who stays one until the transaction ends.
fn is_admin(conn: &mut Conn, id: &str) -> Result<bool, Error> {
    let admins = conn.query(include_str!("../../sql/users/lock_admins.sql"), &[])?;
    Ok(admins.iter().any(|row| row.get::<_, &str>(0) == id))
}

fn end_sessions(conn: &mut Conn, id: &str) -> Result<Vec<[u8; 32]>, Error> {
    let rows = conn.query(include_str!("../../sql/sessions/end_of_user.sql"), &[&id])?;
    Ok(rows.iter().filter_map(|row| <[u8; 32]>::try_from(row.get::<_, &[u8]>(0)).ok()).collect())
}

/// Gives an account another password for the administrator `by` and returns the sessions that ended with the old one; `None` when he is no
/// administrator any more.
///
/// # Errors
/// PostgreSQL's.
pub async fn reset_password(
    db: &Db,
    by: String,
    id: String,
    phc: String,
    line: Line,
) -> Result<Option<Vec<[u8; 32]>>, Error> {
    db.call(move |conn| {
        conn.atomically(|conn| {
            if !is_admin(conn, &by)? {
                return Ok(None);
            }
            conn.execute(include_str!("../../sql/users/set_password.sql"), &[&id, &phc])?;
            line.write(conn)?;
            end_sessions(conn, &id).map(Some)
        })
    })
    .await
}
