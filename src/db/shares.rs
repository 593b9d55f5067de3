//! Links to a VM's consoles, by the keyed hashes of their tokens.

use super::events::Line;
use super::{Db, Error};
use jiff::Timestamp;
use postgres::Row;

/// A link.
#[derive(Debug, Clone)]
pub struct Share {
    /// 12 hex digits.
    pub id: String,
    /// The VM.
    pub vmid: String,
    /// What is known of its token.
    pub token_hash: [u8; 32],
    /// Keys and pointer are let through; in a list not while it is barred.
    pub control: bool,
    /// Control was taken from somebody who came with it.
    pub barred: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl Share {
    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.get("id"),
            vmid: row.get("vmid"),
            token_hash: hash(row)?,
            control: row.get("control"),
            barred: row.get("barred"),
            created_at: row.get("created_at"),
            expires_at: row.get("expires_at"),
        })
    }
}

fn hash(row: &Row) -> Result<[u8; 32], Error> {
    row.get::<_, &[u8]>("token_hash").try_into().map_err(|_| Error::Lost)
}

/// Remembers that control was taken from who came with a link, or given back.
///
/// # Errors
/// PostgreSQL's.
pub async fn set_barred(db: &Db, token: [u8; 32], barred: bool) -> Result<(), Error> {
    let sql = include_str!("../../sql/shares/set_barred.sql");
    db.call(move |conn| conn.execute(sql, &[&token.as_slice(), &barred]).map(drop)).await
}

/// Stores a link, unless its VM has `most` already; false then.
///
/// # Errors
/// PostgreSQL's.
pub async fn create(db: &Db, share: Share, most: u32, line: Line) -> Result<bool, Error> {
    db.call(move |conn| {
        conn.atomically(|conn| {
            conn.execute(include_str!("../../sql/shares/purge.sql"), &[])?;
            let made = conn.execute(
                include_str!("../../sql/shares/create.sql"),
                &[
                    &share.id,
                    &share.vmid,
                    &share.token_hash.as_slice(),
                    &share.control,
                    &share.expires_at,
                    &i64::from(most),
                ],
            )?;
            if made > 0 {
                line.write(conn)?;
            }
            Ok(made > 0)
        })
    })
    .await
}

/// The links of a VM that have not ended, oldest first.
///
/// # Errors
/// PostgreSQL's.
pub async fn of_vm(db: &Db, vmid: String) -> Result<Vec<Share>, Error> {
    db.call(move |conn| {
        let rows = conn.query(include_str!("../../sql/shares/of_vm.sql"), &[&vmid])?;
        rows.iter().map(Share::from_row).collect()
    })
    .await
}

/// The link of a token, if it has not ended.
///
/// # Errors
/// PostgreSQL's.
pub async fn find(db: &Db, token: [u8; 32]) -> Result<Option<Share>, Error> {
    db.call(move |conn| {
        let row = conn.query_opt(include_str!("../../sql/shares/find.sql"), &[&token.as_slice()])?;
        row.as_ref().map(Share::from_row).transpose()
    })
    .await
}

/// Ends a link of a VM; the hash of its token, if there was one.
///
/// # Errors
/// PostgreSQL's.
pub async fn delete(db: &Db, id: String, vmid: String, line: Line) -> Result<Option<[u8; 32]>, Error> {
    db.call(move |conn| {
        conn.atomically(|conn| {
            let row = conn.query_opt(include_str!("../../sql/shares/delete.sql"), &[&id, &vmid])?;
            if row.is_some() {
                line.write(conn)?;
            }
            row.as_ref().map(hash).transpose()
        })
    })
    .await
}
