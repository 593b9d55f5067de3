//! `vmshare clean [--dry-run]`: what the janitor does once an hour, now, whether a server runs or not.

use crate::config::Overrides;
use crate::db::{events, uploads, vms};
use crate::store::Layout;
use crate::store::janitor::{self, Named};
use std::time::Duration;

/// Removes leftovers, or only says what they are.
///
/// # Errors
/// The database does not answer, or something cannot be removed.
pub(super) fn run(overrides: &Overrides, dry_run: bool) -> Result<(), String> {
    let config = super::load(overrides)?;
    let mut db = crate::db::open_for_cli(&super::db_settings(&config))?;
    let named = Named {
        uploads: db.run(uploads::all_now)?,
        live: db.run(vms::live_all_now)?.into_iter().map(|row| row.vmid).collect(),
    };
    // A running server makes files before their rows; what is younger than a minute may be such a one.
    let age = Duration::from_secs(u64::from(config.limits.leftover_hours) * 3600).max(Duration::from_secs(60));
    let found = janitor::find(&Layout::new(&config.base_dir), &named, jiff::Timestamp::now(), age);
    for leftover in &found {
        if dry_run {
            println!("would remove {leftover}");
            continue;
        }
        janitor::remove(leftover).map_err(|e| format!("{}: {e}", leftover.path.display()))?;
        if let Some(id) = &leftover.upload {
            db.run(|conn| uploads::delete_now(conn, id))?;
        }
        println!("removed {leftover}");
    }
    let bytes: u64 = found.iter().map(|leftover| leftover.bytes).sum();
    if !dry_run && !found.is_empty() {
        let words = format!("{} leftovers, {} KB", found.len(), bytes.div_ceil(1024));
        db.run(|conn| events::audit_now(conn, "command line", "clean", "leftovers", &words))?;
    }
    println!("{} leftovers, {} KB", found.len(), bytes.div_ceil(1024));
    Ok(())
}
