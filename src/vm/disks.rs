//! Disks of VMs: made by `qemu-img`, and, where they are kept, whole or not at all.
//!
//! A kept disk that a launch makes has a note beside it (`.new-VMID`) until the VM runs. Whoever takes the launch back, also after a crash,
//! removes the disk that the note names, and only that: a disk somebody used has no note.

use super::args;
use super::disk_args::{self, NewDisk};
use super::tool;
use crate::db::accounts;
use crate::db::vms::VmRow;
use crate::house::Cx;
use crate::proto::problem::Problem;
use crate::store::{self, Claim, disks, images};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// `qemu-img check`: there are clusters that nothing refers to, and no other fault.
const LEAKS: i32 = 3;

/// Runs `qemu-img` with what `line` makes of its path.
///
/// # Errors
/// 507 with its words, 503 when QEMU is not there or it took too long.
pub async fn qemu_img(
    cx: &Cx,
    line: impl FnOnce(&Path) -> Result<Vec<OsString>, args::ArgError>,
) -> Result<String, Problem> {
    let program = cx.hypervisor.qemu_img()?;
    let args = line(&program).map_err(|e| Problem::internal(e.to_string()))?;
    tool::run(cx, args).await
}

/// That a qcow2 image is whole; what no table refers to is no fault. Its header has been looked at: `qemu-img` opens what that names.
///
/// # Errors
/// 422 with `qemu-img`'s words; 503 as [`qemu_img`].
pub async fn check_image(cx: &Cx, path: &Path) -> Result<(), Problem> {
    let args = disk_args::qemu_img_check(&cx.hypervisor.qemu_img()?, path);
    let (code, said) = tool::judge(cx, args.map_err(|e| Problem::internal(e.to_string()))?).await?;
    if code == 0 || code == LEAKS {
        return Ok(());
    }
    let said = said.replace(&*path.to_string_lossy(), "the image");
    let detail = format!("This image cannot be used: it is cut off or damaged ({said}); upload it again.");
    Err(Problem::new(422, "bad_image", detail).in_field("iso"))
}

/// 507 when the folder of `path` has no room for so many bytes beside what the operator wants to keep free.
///
/// # Errors
/// 507.
pub async fn room(cx: &Cx, path: &Path, bytes: u64) -> Result<(), Problem> {
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let needed = (cx.config.limits.disk_reserve_mb << 20) + bytes;
    let free =
        cx.disk(move || store::make_folder(&folder).and_then(|()| crate::sys::statvfs::free_bytes(&folder))).await?;
    if free.map_err(|e| no_space(&e.to_string()))? < needed {
        return Err(no_space("less is free than the operator wants to keep"));
    }
    Ok(())
}

/// Makes a disk where none is; half of one is removed. The caller has the user's claim where it is an overlay of an image.
///
/// # Errors
/// 507; 404 when the image below was removed meanwhile.
pub async fn make(cx: &Cx, path: &Path, new: &NewDisk) -> Result<(), Problem> {
    room(cx, path, 0).await?;
    let _library = library(cx, new).await?;
    let made = qemu_img(cx, |program| disk_args::qemu_img_create(program, path, new)).await;
    if made.is_err() {
        let path = path.to_owned();
        let _ = cx.disk(move || store::remove(&path)).await;
    }
    made.map(drop)
}

/// [`make`] for a disk that is kept: on the disk for good, or not at all.
///
/// # Errors
/// As [`make`].
pub async fn make_kept(cx: &Cx, path: &Path, new: &NewDisk) -> Result<(), Problem> {
    make(cx, path, new).await?;
    let made = path.to_owned();
    let synced = cx.disk(move || {
        let synced = store::sync_made(&made);
        // The caller says that there is none.
        synced.inspect_err(|_| drop(store::remove(&made)))
    });
    synced.await?.map_err(|e| no_space(&e.to_string()))
}

/// The claim of the shared library where the image below is one of its: until its overlay is there nothing tells that it is needed, and whoever
/// removes or replaces it looks first. A class has it together: nobody waits for another's overlay. That the image is there still is looked at
/// in the claim.
async fn library(cx: &Cx, new: &NewDisk) -> Result<Option<Claim>, Problem> {
    let Some((base, _)) = &new.base else { return Ok(None) };
    let (folder, image) = (cx.layout.images(None), base.clone());
    let is_shared = cx.disk(move || folder.canonicalize().is_ok_and(|folder| image.starts_with(folder))).await?;
    let claim = if is_shared { Some(cx.claims.still(images::SHARED).await) } else { None };
    let image = base.clone();
    if cx.disk(move || image.exists()).await? {
        return Ok(claim);
    }
    Err(Problem::not_found("iso_not_found", "The image was removed meanwhile. Choose another one."))
}

/// Waits until nobody works on what a starting VM uses, its kept disk or its user's images: who comes later sees its row. The claim is
/// to be held while disks are made.
///
/// # Errors
/// 404 when the disk was removed meanwhile.
pub async fn settled(cx: &Cx, row: &VmRow) -> Result<Claim, Problem> {
    let claim = cx.claims.of(&row.user_id).await;
    if let Some(name) = &row.disk {
        let path = disks::path(&cx.layout, &row.user_id, name);
        if !cx.disk(move || path.exists()).await? {
            let detail = format!("The disk {name} was removed meanwhile. Give data_disk_gb to make it anew.");
            return Err(Problem::not_found("disk_not_found", detail));
        }
    }
    Ok(claim)
}

fn no_space(why: &str) -> Problem {
    Problem::new(
        507,
        "disk_full",
        format!("There is no room for a disk: {why}. Remove what you no longer need, or tell the operator."),
    )
}

/// 413 when another `gb` GiB are more than a user may keep; `but` is a disk that does not count. The caller has the claim.
///
/// # Errors
/// 413.
pub async fn check_quota(cx: &Cx, uid: &str, gb: u32, but: Option<&str>) -> Result<(), Problem> {
    let (layout, owner, but) = (cx.layout.clone(), uid.to_owned(), but.map(str::to_owned));
    let there = cx.disk(move || disks::list(&layout, &owner)).await?;
    let used: u64 = there.iter().filter(|disk| Some(&disk.name) != but.as_ref()).map(disks::Listed::counts_gb).sum();
    let quota = quota_gb(cx, uid).await?;
    if used + u64::from(gb) <= quota {
        return Ok(());
    }
    let detail = format!(
        "Your disks have {used} of {quota} GiB; {gb} more do not fit. Remove a disk, or ask for a larger quota."
    );
    Err(Problem::new(413, "quota_exceeded", detail))
}

/// What the disks of a user may have together, in GiB: his own quota, or the settings'.
///
/// # Errors
/// 503 when the database is away.
pub async fn quota_gb(cx: &Cx, uid: &str) -> Result<u64, Problem> {
    let own = cx.db(accounts::quota(&cx.db, uid.to_owned())).await?;
    Ok(own.unwrap_or_else(|| u64::from(cx.config.limits.disk_quota_gb)))
}

/// What the images and unfinished uploads of a user may have together, in bytes: his own quota, or the settings'.
///
/// # Errors
/// 503 when the database is away.
pub async fn quota_bytes(cx: &Cx, uid: &str) -> Result<u64, Problem> {
    let own = cx.db(accounts::quota(&cx.db, uid.to_owned())).await?;
    Ok(own.map_or(cx.config.limits.upload_quota_mb << 20, |gb| gb << 30))
}

/// Makes the kept disk of a starting VM, with its note.
///
/// # Errors
/// 413, 507; 409 when it came to be meanwhile.
pub async fn make_for(cx: &Cx, row: &VmRow, new: &NewDisk) -> Result<(), Problem> {
    let Some(name) = row.disk.clone() else { return Ok(()) };
    let _claim = cx.claims.of(&row.user_id).await;
    check_quota(cx, &row.user_id, row.disk_gb.unwrap_or(0), None).await?;
    let (path, note) = (disks::path(&cx.layout, &row.user_id, &name), note(cx, row));
    let (there, folder) = (path.clone(), cx.layout.disks(&row.user_id));
    let noted = cx.disk(move || {
        store::make_folder(&folder)?;
        if there.exists() { Ok(false) } else { std::fs::write(&note, name).map(|()| true) }
    });
    match noted.await? {
        Ok(true) => make_kept(cx, &path, new).await,
        Ok(false) => {
            Err(Problem::conflict("disk_exists", "That disk was made by another request meanwhile. Start again."))
        }
        Err(e) => Err(no_space(&e.to_string())),
    }
}

fn note(cx: &Cx, row: &VmRow) -> PathBuf {
    cx.layout.disks(&row.user_id).join(format!(".new-{}", row.vmid))
}

/// The VM runs: its disk is the user's.
pub async fn keep(cx: &Cx, row: &VmRow) {
    if row.disk.is_none() {
        return;
    }
    let note = note(cx, row);
    if !matches!(cx.disk(move || store::remove(&note)).await, Ok(Ok(()))) {
        log::error!(vmid:% = row.vmid, user = row.user_login.as_str(); "the note of its new disk cannot be removed");
    }
}

/// The launch is taken back: the disk it made goes.
pub async fn take_back(cx: &Cx, row: &VmRow) {
    if row.disk.is_none() {
        return;
    }
    let (note, layout, uid) = (note(cx, row), cx.layout.clone(), row.user_id.clone());
    let removed = cx.disk(move || {
        let Ok(name) = std::fs::read_to_string(&note) else { return Ok(()) };
        store::remove(&disks::path(&layout, &uid, &name))?;
        store::remove(&note)
    });
    if let Ok(Err(e)) = removed.await {
        log::error!(vmid:% = row.vmid, user = row.user_login.as_str(); "its new disk cannot be removed: {e}");
    }
}
