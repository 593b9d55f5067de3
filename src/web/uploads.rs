//! `/upload` and `/uploads…`: images on their way in, by form or by tus 1.0.0.
//!
//! The bytes go from the socket through two buffers to the threads that store them, and nowhere else; whoever is slow slows the
//! sender down. An offset that a client was told is on the disk. The checks that need no bytes (quota, room, names) come before the
//! first one; the image is checked when it is whole, and is in its place at once. Whatever ends an upload in between, a form's
//! file is removed and a resumable one's ends at its last good byte.

mod form;
mod tus;

pub use form::form;
pub use tus::{append, create, is_tus, options, remove, status};

use super::Req;
use crate::config::Profile;
use crate::db::uploads::{self, Reserved, Room, UploadRow};
use crate::house::Cx;
use crate::net::body::{BUFFERS, Broken, Buffer, Incoming};
use crate::proto::problem::Problem;
use crate::reactor::task::{Cancel, Latch};
use crate::store::images;
use crate::store::names::{self, Format};
use crate::store::stage::{Progress, Stage, StageError};
use crate::vm::disks::{check_image, quota_bytes};
use crate::work::lane::{Done, Lane};
use jiff::Timestamp;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Running hashes kept between two pieces; one that is not there costs reading the file again.
const KEPT_HASHES: usize = 1024;
/// How often in the time it is kept an upload's row hears that it is worked on.
const TELLINGS: u32 = 360;

/// What is asked for, before a byte came.
pub(super) struct Wish {
    name: String,
    format: Format,
    profile: String,
    shared: bool,
}

impl Wish {
    /// From a form's fields or an upload's metadata.
    fn new(cx: &Cx, req: &Req, name: &str, field: impl Fn(&str) -> Option<String>) -> Result<Self, Problem> {
        let format = field("format").filter(|text| !text.is_empty());
        let format = format.map_or(Ok(Format::Iso), |text| Format::parse(&text))?;
        let shared = matches!(field("shared").as_deref(), Some("true" | "1" | "yes"));
        if shared && !req.caller()?.is_admin() {
            return Err(Problem::forbidden("admin_only", "Only administrators may bring images for all."));
        }
        let profile = field("profile").filter(|text| !text.is_empty()).unwrap_or_else(|| "custom".to_owned());
        profile_of(cx, &profile)?;
        Ok(Self { name: names::image_name(name, format), format, profile, shared })
    }
}

fn profile_of<'a>(cx: &'a Cx, name: &str) -> Result<&'a Profile, Problem> {
    let none = || Problem::unprocessable("profile", format!("there is no profile {name:?}; see /profiles"));
    cx.config.profiles.get(name).ok_or_else(none)
}

/// Uploads that are being worked on, and what the last piece of others left.
#[derive(Default)]
pub struct Uploads {
    busy: RefCell<HashMap<String, (Cancel, Latch<()>)>>,
    hashes: RefCell<HashMap<String, Progress>>,
    forms: RefCell<HashSet<String>>,
}

impl Uploads {
    /// Uploads that are being worked on.
    #[must_use]
    pub fn active(&self) -> usize {
        self.busy.borrow().len() + self.forms.borrow().len()
    }

    /// True while somebody works on the upload of this id.
    #[must_use]
    pub fn is_busy(&self, id: &str) -> bool {
        self.busy.borrow().contains_key(id) || self.is_form(id)
    }

    /// True while a form with this id is being taken.
    #[must_use]
    pub fn is_form(&self, id: &str) -> bool {
        self.forms.borrow().contains(id)
    }
}

/// The right to work on one upload; dropping it lets the next one.
pub(super) struct Work {
    cx: Cx,
    id: String,
    /// Set when somebody else wants to work on it.
    taken_over: Cancel,
}

impl Work {
    /// Waits for whoever works on it now, after asking him to stop: after a lost connection that is a request nobody waits for any more.
    async fn on(cx: &Cx, id: &str) -> Self {
        loop {
            let before = cx.uploads.busy.borrow().get(id).cloned();
            let Some((cancel, over)) = before else { break };
            cancel.set();
            over.wait().await;
        }
        let taken_over = Cancel::default();
        cx.uploads.busy.borrow_mut().insert(id.to_owned(), (taken_over.clone(), Latch::default()));
        Self { cx: Rc::clone(cx), id: id.to_owned(), taken_over }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let entry = self.cx.uploads.busy.borrow_mut().remove(&self.id);
        if let Some((_, over)) = entry {
            over.set(());
        }
    }
}

/// Brings a body to `sink`, piece by piece and in order, until it ends one way or the other. The sink comes back in each case. Now and then
/// the upload's row hears that it is worked on: who cleans up beside the server knows no more than that.
async fn pour<S: Send + 'static>(
    cx: &Cx,
    incoming: &Incoming,
    (id, taken_over): (&str, &Cancel),
    sink: S,
    work: fn(&mut S, &Buffer) -> Result<(), Problem>,
) -> Result<(S, Result<(), Problem>), Problem> {
    let lane = Lane::new(&cx.store, sink, work);
    let mut out: VecDeque<Done<Buffer, Problem>> = VecDeque::new();
    let mut came = Ok(());
    let mut told = cx.now();
    loop {
        if cx.now() - told >= kept(cx) / TELLINGS {
            told = cx.now();
            prolong(cx, id);
        }
        let next = match taken_over.or(incoming.next()).await {
            Ok(Ok(next)) => next,
            Ok(Err(why)) => {
                came = Err(broken(why));
                None
            }
            Err(_) => {
                came = Err(Problem::conflict("taken_over", "Another request goes on with this upload."));
                None
            }
        };
        let is_over = next.is_none();
        cx.metrics.upload_bytes.add(next.as_ref().map_or(0, |buffer| buffer.filled().len() as u64));
        out.extend(next.map(|buffer| lane.add(buffer)));
        // One is filled meanwhile.
        while out.len() >= BUFFERS - 1 || is_over && !out.is_empty() {
            let Some(Ok((buffer, written))) = (match out.pop_front() {
                Some(done) => Some(done.await),
                None => None,
            }) else {
                continue;
            };
            incoming.give_back(buffer);
            if written.is_err() {
                came = written;
            }
        }
        if is_over || came.is_err() {
            break;
        }
    }
    for done in out {
        let _ = done.await;
    }
    if came.is_err() {
        cx.metrics.upload("broken off");
    }
    let sink = lane.into_sink().ok_or_else(|| Problem::internal("The upload broke off; the server's log says why."))?;
    Ok((sink, came))
}

fn new_id() -> String {
    data_encoding::HEXLOWER.encode(&crate::random::bytes::<16>())
}

fn staged(cx: &Cx, row: &UploadRow) -> PathBuf {
    cx.layout.uploads(&row.user_id).join(&row.id)
}

/// How long an upload is kept that nobody works on. While nothing comes it is still worked on.
fn kept(cx: &Cx) -> Duration {
    let limits = &cx.config.limits;
    Duration::from_secs(u64::from(limits.upload_expire_hours) * 3600 + limits.upload_stall_seconds)
}

fn expiry(cx: &Cx) -> Timestamp {
    let seconds = i64::try_from(kept(cx).as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(Timestamp::now().as_second().saturating_add(seconds)).unwrap_or(Timestamp::MAX)
}

/// Tells an upload's row that it is worked on; nobody waits for that, and the next time does for a database that is away.
fn prolong(cx: &Cx, id: &str) {
    let (story, id, expires) = (Rc::clone(cx), id.to_owned(), expiry(cx));
    cx.spawner.spawn("prolong upload", async move {
        let _ = story.db(uploads::prolong(&story.db, id, expires)).await;
    });
}

/// Takes quota and disk space, makes the empty file and then its row. `size` is the most where the end is `open`.
async fn reserve(
    cx: &Cx,
    req: &Req,
    wish: Wish,
    (size, open_end): (u64, bool),
    metadata: Option<String>,
) -> Result<(UploadRow, Stage), Problem> {
    let user = req.caller()?.user.id.clone();
    let quota = quota_bytes(cx, &user).await?;
    let _claim = cx.claims.of(&user).await;
    let (layout, config, uid) = (cx.layout.clone(), std::sync::Arc::clone(&cx.config), user.clone());
    let (used, free) = cx
        .disk(move || {
            let profiles: Vec<&Profile> = config.profiles.values().collect();
            (images::used(&layout, &profiles, &uid), crate::sys::statvfs::free_bytes(layout.base()))
        })
        .await?;
    // What all have is nobody's quota, here as in the row.
    if !wish.shared && !open_end && size > quota.saturating_sub(used) {
        return Err(over_quota(quota.saturating_sub(used)));
    }
    let keep = cx.config.limits.disk_reserve_mb << 20;
    let free = free.map_or(0, |free| free.saturating_sub(keep));
    if size > free && !open_end || free == 0 {
        return Err(disk_full());
    }
    let new = UploadRow {
        id: new_id(),
        user_id: user,
        shared: wish.shared,
        resumable: metadata.is_some(),
        name: wish.name,
        format: wish.format.to_string(),
        profile: wish.profile,
        metadata: metadata.unwrap_or_default(),
        size: size.min(free),
        verified_to: None,
        done: false,
        expires_at: expiry(cx),
    };
    if !new.resumable {
        cx.uploads.forms.borrow_mut().insert(new.id.clone());
    }
    let path = staged(cx, &new);
    let made = cx.store(move || Stage::create(&path, size.min(free))).await;
    let made = made.and_then(|made| made.map_err(|e| stored(&e)));
    let mut stage = made.inspect_err(|_| {
        cx.uploads.forms.borrow_mut().remove(&new.id);
    })?;
    let room = Room { used, quota, uploads: cx.config.limits.uploads_per_user };
    let id = new.id.clone();
    let refusal = match cx.db(uploads::reserve(&cx.db, new.clone(), room, open_end)).await {
        Ok(Reserved::Yes(row)) => {
            stage.limit_to(row.size);
            return Ok((row, stage));
        }
        Ok(Reserved::OverQuota { left }) => over_quota(left),
        Ok(Reserved::TooMany) => Problem::new(
            429,
            "too_many_uploads",
            "You have several unfinished uploads already. Go on with one, or throw one away.",
        )
        .with("retry-after", "60"),
        // It may have happened.
        Err(problem) => {
            forget_later(cx, id);
            problem
        }
    };
    discard(cx, &new).await;
    Err(refusal)
}

/// Removes the file, then the row.
async fn discard(cx: &Cx, row: &UploadRow) {
    let path = staged(cx, row);
    cx.uploads.hashes.borrow_mut().remove(&row.id);
    cx.uploads.forms.borrow_mut().remove(&row.id);
    if let Ok(Err(e)) = cx.store(move || crate::store::remove(&path)).await {
        log::error!("upload {}: its file cannot be removed: {e}", row.id);
    }
    if cx.db(uploads::delete(&cx.db, row.id.clone())).await.is_err() {
        forget_later(cx, row.id.clone());
    }
}

/// Removes a row as soon as the database is back.
fn forget_later(cx: &Cx, id: String) {
    let story = Rc::clone(cx);
    cx.spawner.spawn("forget upload", async move {
        while !story.stopping.get() && story.db(uploads::delete(&story.db, id.clone())).await.is_err() {
            story.clock.sleep(Duration::from_secs(1)).await;
        }
    });
}

/// 409 when an image has the name that must stay as it is. Looked at before the bytes come; what counts is the look in the claim.
async fn placeable(cx: &Cx, row: &UploadRow) -> Result<(), Problem> {
    let folder = cx.layout.images((!row.shared).then_some(row.user_id.as_str()));
    super::isos::replaceable(cx, Some(&staged(cx, row)), &folder.join(&row.name)).await
}

/// A whole file: hashed, on the disk, checked, in its place. What is refused is removed by the caller. Returns the SHA-256.
async fn complete(cx: &Cx, req: &Req, row: &UploadRow, mut stage: Stage) -> Result<String, Problem> {
    placeable(cx, row).await?;
    let format = Format::parse(&row.format)?;
    let (stage, sha256) = cx
        .store(move || {
            let outcome = stage.sync().map_err(|e| stored(&e)).and_then(|()| {
                let head = stage.head(images::HEAD_BYTES).map_err(|e| stored(&e))?;
                images::check(&head, stage.length(), format)?;
                stage.sha256().map_err(|e| stored(&e))
            });
            (stage, outcome)
        })
        .await?;
    let sound = match sha256 {
        Ok(sha256) if format == Format::Qcow2 => check_image(cx, stage.path()).await.map(|()| sha256),
        sha256 => sha256,
    };
    let sha256 = sound.inspect_err(|_| cx.metrics.upload("refused"))?;
    let default = if row.shared || format != Format::Iso {
        None
    } else {
        images::default_place(profile_of(cx, &row.profile)?, &row.user_id)
    };
    let owner = (!row.shared).then_some(row.user_id.as_str());
    let (folder, name, hash) = (cx.layout.images(owner), row.name.clone(), sha256.clone());
    // What everybody shares is changed by one at a time, whoever it is.
    let _claim = cx.claims.of(if row.shared { images::SHARED } else { &row.user_id }).await;
    placeable(cx, row).await?;
    cx.store(move || images::place(stage.path(), &folder, &name, &hash, default.as_deref()))
        .await?
        .map_err(|e| stored(&e))?;
    let caller = req.caller()?;
    log::info!(user = caller.user.login.as_str(), req = req.id.as_str(); "image {} of {} bytes uploaded", row.name, row.size);
    cx.metrics.upload("done");
    super::auth::audit(cx, req, &caller.user, "upload", &row.name).await;
    Ok(sha256)
}

/// What a client hears when the disk says no.
fn stored(e: &std::io::Error) -> Problem {
    use std::io::ErrorKind;
    if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge) {
        return disk_full();
    }
    log::error!("an upload cannot be stored: {e}");
    Problem::new(507, "not_stored", format!("The server could not store the upload ({e}). Tell the operator."))
}

fn disk_full() -> Problem {
    let detail =
        "The server's disk has no room for this upload. Remove images you no longer need, or tell the operator.";
    Problem::new(507, "disk_full", detail)
}

fn over_quota(left: u64) -> Problem {
    let detail = format!("Your quota has {} MB left. Remove images you no longer need, or ask for more.", left >> 20);
    Problem::new(413, "quota_exceeded", detail)
}

fn not_written(error: &StageError) -> Problem {
    match error {
        StageError::TooLong => Problem::new(413, "too_long", "More bytes came than the upload may have."),
        StageError::Io(e) => stored(e),
    }
}

fn broken(why: Broken) -> Problem {
    match why {
        Broken::Malformed => Problem::bad_request("bad_request", "The chunked body is malformed."),
        Broken::Ending => Problem::unavailable("stopping", "The server restarts. Go on in a moment.", 2),
        Broken::Stalled | Broken::Left => {
            Problem::timeout("The upload stopped in the middle. Send the rest, or all of it again.")
        }
    }
}
