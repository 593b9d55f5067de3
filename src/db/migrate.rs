//! Numbered migrations, each applied once, in order, in a transaction of its own, under an advisory lock.
//!
//! A database that is newer than this binary is refused: an old program must not write into tables it does not know.

use super::{Conn, Error};
use data_encoding::HEXLOWER;
use ring::digest;

/// Number, name and text of each.
const MIGRATIONS: &[(i32, &str, &str)] = &[
    (1, "first", include_str!("../../sql/migrations/0001_first.sql")),
    (2, "uploads", include_str!("../../sql/migrations/0002_uploads.sql")),
    (4, "life", include_str!("../../sql/migrations/0004_life.sql")),
    (6, "alerts", include_str!("../../sql/migrations/0006_alerts.sql")),
    (7, "admin", include_str!("../../sql/migrations/0007_admin.sql")),
    (8, "retention", include_str!("../../sql/migrations/0008_retention.sql")),
    (9, "visits", include_str!("../../sql/migrations/0009_visits.sql")),
    (10, "viewers", include_str!("../../sql/migrations/0010_viewers.sql")),
    (11, "clocks", include_str!("../../sql/migrations/0011_clocks.sql")),
];

/// Keeps two starting programs from migrating at the same time.
const LOCK: i64 = 0x766d_7368_0001;

/// Brings the tables up to date.
///
/// # Errors
/// What is wrong and what to do.
pub fn run(conn: &mut Conn) -> Result<(), String> {
    let words = |e: Error| format!("the tables cannot be brought up to date: {e}");
    conn.client().batch_execute("set statement_timeout = 0").map_err(|e| words(e.into()))?;
    let result = locked(conn, words);
    let _ = conn.client().execute("select pg_advisory_unlock($1)", &[&LOCK]);
    let _ = conn.client().batch_execute("reset statement_timeout");
    result
}

fn locked(conn: &mut Conn, words: fn(Error) -> String) -> Result<(), String> {
    conn.client().execute("select pg_advisory_lock($1)", &[&LOCK]).map_err(|e| words(e.into()))?;
    conn.client()
        .batch_execute(
            "create table if not exists schema_migrations (version integer primary key, name text not null,
             sha256 text not null, applied_at timestamptz not null default now())",
        )
        .map_err(|e| words(e.into()))?;
    let rows = conn.client().query("select version, sha256 from schema_migrations order by version", &[]);
    let applied: Vec<(i32, String)> =
        rows.map_err(|e| words(e.into()))?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let newest = MIGRATIONS.iter().map(|(version, ..)| *version).max().unwrap_or(0);
    for (version, sha256) in &applied {
        match MIGRATIONS.iter().find(|(known, ..)| known == version) {
            None => {
                return Err(format!(
                    "the database is at schema {version}, this vmshare knows up to {newest}: \
                     start the newer vmshare, or restore a backup of before the upgrade"
                ));
            }
            Some((_, name, sql)) if hash(sql) != *sha256 => {
                return Err(format!(
                    "migration {version} ({name}) was applied in another form: this is not this vmshare's database"
                ));
            }
            Some(_) => {}
        }
    }
    for (version, name, sql) in MIGRATIONS.iter().filter(|(v, ..)| !applied.iter().any(|(a, _)| a == v)) {
        let step = |conn: &mut Conn| -> Result<(), Error> {
            conn.client().batch_execute(sql)?;
            conn.client().execute(
                "insert into schema_migrations (version, name, sha256) values ($1, $2, $3)",
                &[version, name, &hash(sql)],
            )?;
            Ok(())
        };
        conn.atomically(step)
            .map_err(|e| format!("migration {version} ({name}) failed, nothing of it was kept: {e}"))?;
        log::info!("database migrated to schema {version} ({name})");
    }
    Ok(())
}

fn hash(sql: &str) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, sql.as_bytes()).as_ref())
}
