//! `/uploads`: tus 1.0.0 (tus.io/protocols/resumable-upload).
//!
//! The file's length is the offset: what was told is synced, so after a crash it is that or more. A piece that comes with a checksum counts
//! when it is whole and right, and not before.

use super::{Wish, Work, complete, discard, expiry, not_written, placeable, pour, reserve, staged, stored};
use crate::db::uploads::{self, UploadRow};
use crate::house::Cx;
use crate::net::body::{Buffer, Incoming};
use crate::net::response::Response;
use crate::proto::http::{Head, Method};
use crate::proto::problem::Problem;
use crate::proto::tus::{self, Checksum};
use crate::store::stage::{Stage, StageError};
use crate::web::Req;
use crate::web::isos::replaceable;
use std::rc::Rc;

const PIECE: &str = "application/offset+octet-stream";
/// A piece is not what its checksum says.
const WRONG: &str = "checksum_mismatch";

/// True for the paths of the protocol: each answer there says the version.
#[must_use]
pub fn is_tus(path: &str) -> bool {
    path.strip_prefix("/uploads").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `OPTIONS /uploads`: what is spoken. No largest size: it is each user's quota, and who asks here is not known.
pub async fn options(_: Cx, _: Rc<Req>) -> Result<Response, Problem> {
    Ok(Response::empty(204)
        .with("tus-version", tus::VERSION)
        .with("tus-extension", tus::EXTENSIONS)
        .with("tus-checksum-algorithm", tus::CHECKSUMS))
}

/// `POST /uploads`: makes an upload, and takes its first bytes where they come with it.
pub async fn create(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    speaks(&req.head)?;
    let header = |name: &str| req.head.headers.get(name);
    if header("upload-length").is_none() && header("upload-defer-length").is_some() {
        let detail = "This server needs Upload-Length: the size of the whole file.";
        return Err(Problem::bad_request("length_needed", detail));
    }
    let size = tus::number("Upload-Length", header("upload-length"))?;
    let text = header("upload-metadata").unwrap_or_default().to_owned();
    let metadata = tus::metadata(Some(&text))?;
    let name = metadata.get("filename").or_else(|| metadata.get("name")).cloned().unwrap_or_default();
    let wish = Wish::new(&cx, &req, &name, |field| metadata.get(field).cloned())?;
    let owner = (!wish.shared).then_some(req.caller()?.user.id.as_str());
    replaceable(&cx, None, &cx.layout.images(owner).join(&wish.name)).await?;
    let first = match (&req.incoming, header("content-type")) {
        (Some(incoming), Some(PIECE)) => Some((incoming, tus::checksum(header("upload-checksum"))?)),
        (Some(_), _) => return Err(not_a_piece()),
        (None, _) => None,
    };
    let (mut row, stage) = reserve(&cx, &req, wish, (size, false), Some(text)).await?;
    drop(stage);
    crate::web::auth::audit(&cx, &req, &req.caller()?.user, "begin upload", &row.name).await;
    let offset = match first {
        Some((incoming, checksum)) => {
            let work = Work::on(&cx, &row.id).await;
            match take(&cx, &req, &work, &mut row, (incoming, checksum), 0).await {
                Ok(offset) => offset,
                // All of it came, and it is no image: there is nothing to go on with.
                Err(problem) if problem.status == 422 => return Err(problem),
                // The client is not told where to go on, so it begins anew.
                Err(problem) if problem.code == WRONG => {
                    discard(&cx, &row).await;
                    return Err(problem);
                }
                // What else went wrong with the first bytes is told when the client goes on, from the last that is there.
                Err(_) => hold_back(&cx, &row).await?,
            }
        }
        // An empty file is whole at once, and no image.
        None if size == 0 => {
            discard(&cx, &row).await;
            return Err(crate::store::images::check(&[], 0, crate::store::names::Format::Iso)
                .err()
                .unwrap_or_else(not_a_piece));
        }
        None => 0,
    };
    let place = format!("/uploads/{}", row.id);
    let answer = Response::empty(201).with("location", place).with("upload-expires", expires(&row));
    Ok(answer.with("upload-offset", offset.to_string()))
}

/// `HEAD /uploads/{id}`: how far it is, on the disk.
pub async fn status(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    speaks(&req.head)?;
    let row = find(&cx, &req).await?;
    let work = Work::on(&cx, &row.id).await;
    // Who worked on it may have ended it.
    let row = find(&cx, &req).await?;
    let offset = far(&cx, &req, &row).await?;
    drop(work);
    let mut answer = Response::empty(200)
        .with("upload-offset", offset.to_string())
        .with("upload-length", row.size.to_string())
        .with("upload-expires", expires(&row))
        .with("cache-control", "no-store");
    if !row.metadata.is_empty() {
        answer = answer.with("upload-metadata", row.metadata);
    }
    Ok(answer)
}

/// How far an upload is. One whose bytes are all there and that was not brought to its place, because the server ended in that moment, is
/// brought there now: its client takes this answer for success.
async fn far(cx: &Cx, req: &Req, row: &UploadRow) -> Result<u64, Problem> {
    if row.done {
        return Ok(row.size);
    }
    let (path, size, verified) = (staged(cx, row), row.size, row.verified_to);
    let synced = cx.store(move || {
        let mut stage = Stage::resume(&path, size, verified, None)?;
        // What is not known to be on the disk is sent again.
        if let Err(e) = stage.sync() {
            stage.restart();
            return Err(e);
        }
        Ok(stage)
    });
    let stage = synced.await?.map_err(|e: std::io::Error| missing(&e))?;
    let offset = stage.length();
    if offset < size || req.caller()?.user.id != row.user_id {
        return Ok(offset);
    }
    match finish(cx, req, row, stage).await {
        Err(problem) if problem.code == "image_in_use" => hold_back(cx, row).await,
        finished => finished.map(|()| size),
    }
}

/// How far an upload is that is not in its place, with its last byte to be sent again where all came: a client takes the whole length for
/// success, and a refused HEAD for a reason to send everything anew. So it asks for the rest, and hears what is in the way.
async fn hold_back(cx: &Cx, row: &UploadRow) -> Result<u64, Problem> {
    let (path, most) = (staged(cx, row), row.size.saturating_sub(1));
    let held = cx.store(move || {
        let mut stage = Stage::resume(&path, most, None, None)?;
        stage.sync().map(|()| stage.length())
    });
    held.await?.map_err(|e| missing(&e))
}

/// `PATCH /uploads/{id}`: the next bytes.
pub async fn append(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    speaks(&req.head)?;
    let header = |name: &str| req.head.headers.get(name);
    if header("content-type") != Some(PIECE) {
        return Err(not_a_piece());
    }
    let from = tus::number("Upload-Offset", header("upload-offset"))?;
    let checksum = tus::checksum(header("upload-checksum"))?;
    let row = find(&cx, &req).await?;
    let work = Work::on(&cx, &row.id).await;
    let mut row = find(&cx, &req).await?;
    let done = |offset: u64, row: &UploadRow| {
        Response::empty(204).with("upload-offset", offset.to_string()).with("upload-expires", expires(row))
    };
    let Some(incoming) = &req.incoming else {
        let at = far(&cx, &req, &row).await?;
        return if at == from { Ok(done(at, &row)) } else { Err(elsewhere(at)) };
    };
    if row.done {
        return Err(elsewhere(row.size));
    }
    let offset = take(&cx, &req, &work, &mut row, (incoming, checksum), from).await?;
    Ok(done(offset, &row))
}

/// `DELETE /uploads/{id}`.
pub async fn remove(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    speaks(&req.head)?;
    let row = find(&cx, &req).await?;
    let _work = Work::on(&cx, &row.id).await;
    discard(&cx, &row).await;
    crate::web::auth::audit(&cx, &req, &req.caller()?.user, "throw upload away", &row.name).await;
    Ok(Response::empty(204))
}

/// Takes bytes from `from` on, and brings the image to its place when they were the last. Returns the new offset.
async fn take(
    cx: &Cx,
    req: &Req,
    work: &Work,
    row: &mut UploadRow,
    (incoming, checksum): (&Incoming, Option<Checksum>),
    from: u64,
) -> Result<u64, Problem> {
    placeable(cx, row).await?;
    let (path, size, verified) = (staged(cx, row), row.size, row.verified_to);
    let progress = cx.uploads.hashes.borrow_mut().remove(&row.id);
    let opened = cx.store(move || Stage::resume(&path, size, verified, progress)).await?;
    let mut stage = opened.map_err(|e| missing(&e))?;
    if stage.length() != from {
        return Err(elsewhere(stage.length()));
    }
    if incoming.length().is_some_and(|length| length > size - from) {
        return Err(not_written(&StageError::TooLong));
    }
    let marked = checksum.as_ref().map(|_| from);
    touch(cx, row, marked).await?;
    if let Some(checksum) = &checksum {
        stage.check_piece(checksum.algorithm);
    }
    let write = |stage: &mut Stage, buffer: &Buffer| stage.write(buffer.filled()).map_err(|e| not_written(&e));
    let (back, came) = pour(cx, incoming, (&row.id, &work.taken_over), stage, write).await?;
    let (stage, settled) = settle(cx, back, checksum.as_ref(), came).await?;
    // Whatever came of the piece, the file is as it counts now, and its time begins anew.
    let touched = touch(cx, row, None).await;
    if marked.is_some() {
        touched?;
    }
    let offset = stage.length();
    if let Err(problem) = settled {
        keep(cx, row, &stage);
        return Err(problem);
    }
    if offset < size {
        keep(cx, row, &stage);
        return Ok(offset);
    }
    finish(cx, req, row, stage).await.map(|()| offset)
}

/// It was worked on.
async fn touch(cx: &Cx, row: &mut UploadRow, verified_to: Option<u64>) -> Result<(), Problem> {
    let expires = expiry(cx);
    cx.db(uploads::touch(&cx.db, row.id.clone(), verified_to, expires)).await?;
    (row.verified_to, row.expires_at) = (verified_to, expires);
    Ok(())
}

/// Brings what is whole to its place.
async fn finish(cx: &Cx, req: &Req, row: &UploadRow, stage: Stage) -> Result<(), Problem> {
    match complete(cx, req, row, stage).await {
        Ok(_) => {
            mark_done(cx, row).await;
            Ok(())
        }
        Err(problem) => {
            // Only a file that can never be an image goes; one that could not be stored may be tried again.
            if problem.status == 422 {
                discard(cx, row).await;
            }
            Err(problem)
        }
    }
}

/// The end of a piece: on the disk, or, where its checksum does not say that it is right, taken back.
async fn settle(
    cx: &Cx,
    mut stage: Stage,
    checksum: Option<&Checksum>,
    came: Result<(), Problem>,
) -> Result<(Stage, Result<(), Problem>), Problem> {
    let wanted = checksum.map(|checksum| checksum.digest.clone());
    cx.store(move || {
        let wrong = match (&wanted, stage.piece_digest()) {
            (Some(wanted), Some(got)) => *wanted != got || came.is_err(),
            _ => false,
        };
        let synced = if wrong { stage.forget_piece() } else { stage.settle() };
        let outcome = match synced {
            Err(e) => Err(stored(&e)),
            Ok(()) if wrong && came.is_ok() => {
                Err(Problem::new(460, WRONG, "The piece is not what its checksum says. Send it again."))
            }
            Ok(()) => came,
        };
        (stage, outcome)
    })
    .await
}

fn keep(cx: &Cx, row: &UploadRow, stage: &Stage) {
    let mut hashes = cx.uploads.hashes.borrow_mut();
    if hashes.len() >= super::KEPT_HASHES {
        hashes.clear();
    }
    if let Some(progress) = stage.progress() {
        hashes.insert(row.id.clone(), progress);
    }
}

/// The image is in its place whatever the database says; a row that does not know it is mended when the database is back. Only then the
/// file's first name goes: as long as the row says that it is on its way, it may be finished once more.
async fn mark_done(cx: &Cx, row: &UploadRow) {
    let path = staged(cx, row);
    if cx.db(uploads::done(&cx.db, row.id.clone())).await.is_ok() {
        forget(cx, path).await;
        return;
    }
    let (story, id) = (Rc::clone(cx), row.id.clone());
    cx.spawner.spawn("upload done", async move {
        while story.db(uploads::done(&story.db, id.clone())).await.is_err() {
            if story.stopping.get() {
                return;
            }
            story.clock.sleep(std::time::Duration::from_secs(1)).await;
        }
        forget(&story, path).await;
    });
}

async fn forget(cx: &Cx, path: std::path::PathBuf) {
    if let Ok(Err(e)) = cx.store(move || crate::store::remove(&path)).await {
        log::error!("the first name of an uploaded image cannot be removed: {e}");
    }
}

async fn find(cx: &Cx, req: &Req) -> Result<UploadRow, Problem> {
    let none = || Problem::not_found("upload_not_found", "There is no such upload (any more). Begin a new one.");
    let id = req.param(0).to_owned();
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(none());
    }
    let caller = req.caller()?;
    // Administrators see and remove all; going on with one is its owner's.
    let any = caller.is_admin() && req.head.method != Method::Patch;
    let user = (!any).then(|| caller.user.id.clone());
    let row = cx.db(uploads::find(&cx.db, id, user)).await?.filter(|row| row.resumable).ok_or_else(none)?;
    if row.expires_at <= jiff::Timestamp::now() {
        let detail = "This upload was not gone on with in time and is thrown away. Begin a new one.";
        return Err(Problem::new(410, "upload_expired", detail));
    }
    Ok(row)
}

/// Every request but OPTIONS says the version.
fn speaks(head: &Head) -> Result<(), Problem> {
    if head.headers.get("tus-resumable") == Some(tus::VERSION) {
        return Ok(());
    }
    let detail = format!("This is a tus {} server: send Tus-Resumable: {}.", tus::VERSION, tus::VERSION);
    Err(Problem::new(412, "tus_version", detail).with("tus-version", tus::VERSION))
}

fn not_a_piece() -> Problem {
    Problem::new(415, "piece_expected", format!("Send the bytes with Content-Type: {PIECE}."))
}

fn elsewhere(offset: u64) -> Problem {
    let detail = format!("The upload has {offset} bytes; send what comes next.");
    Problem::conflict("offset_mismatch", detail).with("upload-offset", offset.to_string())
}

fn missing(e: &std::io::Error) -> Problem {
    if e.kind() == std::io::ErrorKind::NotFound {
        return Problem::new(410, "upload_gone", "What had come of this upload is gone. Begin a new one.");
    }
    stored(e)
}

fn expires(row: &UploadRow) -> String {
    crate::proto::http::date::format(row.expires_at)
}
