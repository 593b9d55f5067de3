//! Removes leftovers (`store::janitor`) once an hour, with a line in the log for each, and what is older than it is to be kept of the records of VMs,
//! connections and changes.
//!
//! At the start it also ends what a former server had begun and nobody can go on with: forms that were being taken.

use crate::db::events::{self, Trail};
use crate::db::{uploads, vms};
use crate::house::Cx;
use crate::proto::problem::Problem;
use crate::store::janitor::{self, Leftover, Named};
use jiff::Timestamp;
use std::rc::Rc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(3600);
/// Records removed by one statement: others wait for the database meanwhile.
const BATCH: i64 = 1000;

/// Starts the story; to be called once the rows of a former run were looked after.
pub fn begin(cx: &Cx) {
    let (cx, spawner) = (Rc::clone(cx), cx.spawner.clone());
    spawner.spawn("janitor", async move {
        if let Err(problem) = forms_of_a_former_server(&cx).await {
            log::warn!("half forms of a former server stay for now: {}", problem.detail);
        }
        while !cx.stopping.get() {
            if let Err(problem) = clean(&cx).await {
                log::warn!("leftovers stay for now: {}", problem.detail);
            }
            if let Err(problem) = forget_old(&cx).await {
                log::warn!("old records stay for now: {}", problem.detail);
            }
            cx.clock.sleep(EVERY).await;
        }
    });
}

async fn forms_of_a_former_server(cx: &Cx) -> Result<(), Problem> {
    // Only rows that are older than this story: a form may be on its way by now.
    let (done, rows): (Vec<_>, Vec<_>) = cx.db(uploads::all(&cx.db)).await?.into_iter().partition(|row| row.done);
    // The image is in its place; only the file's first name may be left.
    for row in done {
        let path = cx.layout.uploads(&row.user_id).join(&row.id);
        if let Ok(Err(e)) = cx.disk(move || crate::store::remove(&path)).await {
            log::warn!("janitor: the first name of an uploaded image stays for now: {e}");
        }
    }
    for row in rows.into_iter().filter(|row| !row.resumable && !cx.uploads.is_form(&row.id)) {
        let path = cx.layout.uploads(&row.user_id).join(&row.id);
        let leftover = Leftover { path, bytes: 0, why: "form of a former server", upload: Some(row.id) };
        if let Err(problem) = remove(cx, leftover).await {
            log::warn!("janitor: {}", problem.detail);
        }
    }
    Ok(())
}

/// Finds and removes.
async fn clean(cx: &Cx) -> Result<(), Problem> {
    // Files first, then rows: what comes in between has a row.
    let rows = cx.db(vms::live_all(&cx.db)).await?;
    let mut coming = cx.db(uploads::all(&cx.db)).await?;
    // One piece may take longer than the whole upload may rest.
    coming.iter_mut().filter(|row| cx.uploads.is_busy(&row.id)).for_each(|row| row.expires_at = Timestamp::MAX);
    let named = Named {
        uploads: coming,
        live: rows.into_iter().map(|row| row.vmid).chain(cx.vms.all().iter().map(|vm| vm.vmid.to_string())).collect(),
    };
    let (layout, age) = (cx.layout.clone(), Duration::from_secs(u64::from(cx.config.limits.leftover_hours) * 3600));
    // A launch makes its row before its folder, and an upload its file before its row: `age` covers the latter.
    let age = age.max(Duration::from_secs(60));
    let found = cx.disk(move || janitor::find(&layout, &named, Timestamp::now(), age)).await?;
    for leftover in found {
        // One that cannot be removed does not keep the others.
        if let Err(problem) = remove(cx, leftover).await {
            log::warn!("janitor: {}", problem.detail);
        }
    }
    Ok(())
}

/// Removes records whose days are over.
async fn forget_old(cx: &Cx) -> Result<(), Problem> {
    let limits = &cx.config.limits;
    for (trail, days) in
        [(Trail::Vms, limits.event_days), (Trail::Connections, limits.event_days), (Trail::Audit, limits.audit_days)]
    {
        let mut gone = 0;
        loop {
            let batch = cx.db(events::trim(&cx.db, trail, days, BATCH)).await?;
            gone += batch;
            if i64::try_from(batch) != Ok(BATCH) || cx.stopping.get() {
                break;
            }
        }
        if gone > 0 {
            log::info!("janitor: removed {gone} records ({trail:?}) older than {days} days");
        }
    }
    Ok(())
}

async fn remove(cx: &Cx, leftover: Leftover) -> Result<(), Problem> {
    let (shown, upload) = (leftover.to_string(), leftover.upload.clone());
    match cx.disk(move || janitor::remove(&leftover)).await? {
        Ok(()) => log::info!("janitor: removed {shown}"),
        Err(e) => return Err(Problem::internal(format!("{shown}: {e}"))),
    }
    match upload {
        Some(id) => cx.db(uploads::delete(&cx.db, id)).await,
        None => Ok(()),
    }
}
