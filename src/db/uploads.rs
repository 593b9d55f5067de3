//! Uploads: who may send how much, and what is known of what came so far.

use super::{Conn, Db, Error};
use jiff::Timestamp;
use postgres::Row;

/// An upload's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRow {
    /// 32 hex digits; knowing it does not suffice.
    pub id: String,
    /// Whose it is.
    pub user_id: String,
    /// It becomes an image for all.
    pub shared: bool,
    /// It can be gone on with.
    pub resumable: bool,
    /// The name it will have.
    pub name: String,
    /// `iso`, `qcow2` or `raw`.
    pub format: String,
    /// The profile whose default it becomes.
    pub profile: String,
    /// `Upload-Metadata` as it came.
    pub metadata: String,
    /// Bytes it has when whole; of a form, at most.
    pub size: u64,
    /// What counts of the file after a crash, while a piece with a checksum comes.
    pub verified_to: Option<u64>,
    /// It is whole and in its place.
    pub done: bool,
    /// When it is thrown away.
    pub expires_at: Timestamp,
}

impl UploadRow {
    fn from_row(row: &Row) -> Self {
        let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
        Self {
            id: row.get("id"),
            user_id: row.get("user_id"),
            shared: row.get("shared"),
            resumable: row.get("resumable"),
            name: row.get("name"),
            format: row.get("format"),
            profile: row.get("profile"),
            metadata: row.get("metadata"),
            size: bytes(row.get("size")),
            verified_to: row.get::<_, Option<i64>>("verified_to").map(bytes),
            done: row.get::<_, &str>("state") == "done",
            expires_at: row.get("expires_at"),
        }
    }
}

/// What a user may have.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes his finished images have.
    pub used: u64,
    /// Bytes of images and unfinished uploads together.
    pub quota: u64,
    /// Unfinished uploads.
    pub uploads: u32,
}

/// What became of the wish to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// The row is there; its size may be smaller than asked where that was open.
    Yes(UploadRow),
    /// So many bytes are left of the quota.
    OverQuota {
        /// Bytes.
        left: u64,
    },
    /// There are unfinished ones enough.
    TooMany,
}

/// Makes a row if the quota has room for it, which two at once cannot both use. `open_end`: the size is not known, so what is left
/// is the most.
///
/// # Errors
/// PostgreSQL's.
pub async fn reserve(db: &Db, new: UploadRow, room: Room, open_end: bool) -> Result<Reserved, Error> {
    db.call(move |conn| conn.atomically(|conn| reserve_now(conn, new, room, open_end))).await
}

/// Bytes of a user's quota that his unfinished uploads hold.
///
/// # Errors
/// PostgreSQL's.
pub async fn reserved(db: &Db, user: String) -> Result<u64, Error> {
    db.call(move |conn| reserved_now(conn, &user).map(|(bytes, _)| bytes)).await
}

/// The same, and how many there are.
fn reserved_now(conn: &mut Conn, user: &str) -> Result<(u64, i64), Error> {
    let row = conn.query_opt(include_str!("../../sql/uploads/reserve.sql"), &[&user])?.ok_or(Error::Lost)?;
    Ok((u64::try_from(row.get::<_, i64>("bytes")).unwrap_or(0), row.get("uploads")))
}

fn reserve_now(conn: &mut Conn, mut new: UploadRow, room: Room, open_end: bool) -> Result<Reserved, Error> {
    conn.query_opt(include_str!("../../sql/uploads/lock_user.sql"), &[&new.user_id])?;
    let (reserved, uploads) = reserved_now(conn, &new.user_id)?;
    let left = room.quota.saturating_sub(room.used).saturating_sub(reserved);
    if uploads >= i64::from(room.uploads) {
        return Ok(Reserved::TooMany);
    }
    if !new.shared && (new.size > left && !open_end || left == 0) {
        return Ok(Reserved::OverQuota { left });
    }
    if open_end && !new.shared {
        new.size = new.size.min(left);
    }
    let size = bigint(new.size);
    conn.execute(
        include_str!("../../sql/uploads/create.sql"),
        &[
            &new.id,
            &new.user_id,
            &new.shared,
            &new.resumable,
            &new.name,
            &new.format,
            &new.profile,
            &new.metadata,
            &size,
            &new.expires_at,
        ],
    )?;
    Ok(Reserved::Yes(new))
}

fn bigint(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// One upload of a user.
///
/// # Errors
/// PostgreSQL's.
pub async fn find(db: &Db, id: String, user: Option<String>) -> Result<Option<UploadRow>, Error> {
    db.call(move |conn| {
        let row = conn.query_opt(include_str!("../../sql/uploads/find.sql"), &[&id, &user])?;
        Ok(row.map(|row| UploadRow::from_row(&row)))
    })
    .await
}

/// It was worked on: it is kept until `expires`, and of its file `verified_to` counts after a crash.
///
/// # Errors
/// PostgreSQL's.
pub async fn touch(db: &Db, id: String, verified_to: Option<u64>, expires: Timestamp) -> Result<(), Error> {
    db.call(move |conn| {
        let verified_to = verified_to.map(bigint);
        conn.execute(include_str!("../../sql/uploads/touch.sql"), &[&id, &verified_to, &expires])?;
        Ok(())
    })
    .await
}

/// It is being worked on: it is kept until `expires`.
///
/// # Errors
/// PostgreSQL's.
pub async fn prolong(db: &Db, id: String, expires: Timestamp) -> Result<(), Error> {
    db.call(move |conn| conn.execute(include_str!("../../sql/uploads/prolong.sql"), &[&id, &expires]).map(drop)).await
}

/// It is whole and in its place.
///
/// # Errors
/// PostgreSQL's.
pub async fn done(db: &Db, id: String) -> Result<(), Error> {
    db.call(move |conn| conn.execute(include_str!("../../sql/uploads/done.sql"), &[&id]).map(drop)).await
}

/// Forgets it; doing it twice is as once.
///
/// # Errors
/// PostgreSQL's.
pub async fn delete(db: &Db, id: String) -> Result<(), Error> {
    db.call(move |conn| delete_now(conn, &id)).await
}

/// As [`delete`], on a connection at hand.
///
/// # Errors
/// PostgreSQL's.
pub fn delete_now(conn: &mut Conn, id: &str) -> Result<(), Error> {
    conn.execute(include_str!("../../sql/uploads/delete.sql"), &[&id]).map(drop)
}

/// All of them, oldest first.
///
/// # Errors
/// PostgreSQL's.
pub async fn all(db: &Db) -> Result<Vec<UploadRow>, Error> {
    db.call(all_now).await
}

/// As [`all`], on a connection at hand.
///
/// # Errors
/// PostgreSQL's.
pub fn all_now(conn: &mut Conn) -> Result<Vec<UploadRow>, Error> {
    Ok(conn.query(include_str!("../../sql/uploads/all.sql"), &[])?.iter().map(UploadRow::from_row).collect())
}
