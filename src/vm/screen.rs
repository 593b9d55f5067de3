//! What a guest shows now, as a picture (PNG), for people who look at many VMs or at none yet.
//!
//! QEMU writes the picture into the VM's folder (`screendump`); a thread of its own reads it, makes it smaller and packs it. A class that is
//! looked at must not cost what it is looked at for: a VM's screen is taken when somebody asks, never twice within [`EVERY`], and all who
//! ask for the same width meanwhile get the same picture.

use super::Vm;
use crate::house::Cx;
use crate::proto::ppm::{self, Picture};
use crate::proto::problem::Problem;
use crate::reactor::task::{Latch, first};
use data_encoding::HEXLOWER;
use ring::digest;
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::io::Read;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a picture is what the guest shows now.
pub const FRESH: Duration = Duration::from_secs(3);
/// Least time between two looks at one VM's screen.
const EVERY: Duration = Duration::from_secs(1);
/// How long QEMU may take for one.
const TAKES: Duration = Duration::from_secs(5);
/// How long one asks for a picture, whoever else does.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest screen a picture is made of: 16 million pixels are more than 5K.
const PIXELS: usize = 16 << 20;
/// Pictures kept of a VM, one of each width.
const KEPT: usize = 4;
/// Larger ones are not kept.
const KEPT_BYTES: usize = 1 << 20;
/// Its file in the VM's folder.
const FILE: &str = "screen.ppm";
/// Pictures that may wait for the thread that makes them.
pub const WAITING: usize = 512;

/// A picture.
pub struct Shot {
    /// The file.
    pub png: Vec<u8>,
    /// Names its content.
    pub etag: String,
}

type Width = Option<u32>;
type Outcome = Result<Rc<Shot>, Problem>;

/// What is kept of one VM's screen.
#[derive(Default)]
pub struct Shots {
    kept: RefCell<Vec<(Width, Instant, Rc<Shot>)>>,
    under_way: RefCell<Option<(Width, Latch<Outcome>)>>,
    last: Cell<Option<Instant>>,
}

impl Shots {
    fn fresh(&self, width: Width, now: Instant) -> Option<Rc<Shot>> {
        let kept = self.kept.borrow();
        let found = kept.iter().find(|(of, taken, _)| *of == width && *taken + FRESH > now);
        found.map(|(.., shot)| Rc::clone(shot))
    }

    fn keep(&self, width: Width, now: Instant, shot: &Rc<Shot>) {
        let mut kept = self.kept.borrow_mut();
        kept.retain(|(of, taken, _)| *of != width && *taken + FRESH > now);
        if kept.len() < KEPT && shot.png.len() <= KEPT_BYTES {
            kept.push((width, now, Rc::clone(shot)));
        }
    }

    /// How long to wait before the screen is looked at again.
    fn rest(&self, now: Instant) -> Option<Duration> {
        self.last.get().map(|last| EVERY.saturating_sub(now - last)).filter(|rest| !rest.is_zero())
    }
}

/// A look that is under way; whatever becomes of it, nobody waits for it for ever.
struct Look<'a>(&'a Shots, Latch<Outcome>);

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.0.under_way.replace(None);
        self.1.set(Err(away()));
    }
}

fn away() -> Problem {
    Problem::unavailable("screen_away", "The VM's screen does not answer right now. Try again in a moment.", 2)
}

fn ending() -> Problem {
    Problem::conflict("vm_not_running", "This VM is ending; only one that runs has a screen.")
}

/// What `vm` shows, `width` pixels wide or as large as it is.
///
/// # Errors
/// 503 when QEMU shows nothing, or is too slow; 409 when it has just ended.
pub async fn shot(cx: &Cx, vm: &Vm, width: Width) -> Outcome {
    let until = cx.now() + PATIENCE;
    loop {
        // Switched off and on: its screen comes again.
        let again = vm.again.borrow().clone();
        if let Some(again) = again {
            cx.within(PATIENCE, first(again.wait(), vm.ended.wait())).await.ok_or_else(away)?;
        }
        let outcome = next(cx, vm, width, until).await;
        let is_ending = || vm.leaving.get().is_some() || vm.process.borrow().exit.get().is_some();
        match outcome {
            // It was cut off by that.
            Err(_) if vm.again.borrow().is_some() && cx.now() < until => {}
            Err(_) if is_ending() => return Err(ending()),
            outcome => return outcome,
        }
    }
}

async fn next(cx: &Cx, vm: &Vm, width: Width, until: Instant) -> Outcome {
    let shots = &vm.shots;
    while cx.now() < until {
        if let Some(shot) = shots.fresh(width, cx.now()) {
            return Ok(shot);
        }
        let under_way = shots.under_way.borrow().clone();
        match (under_way, shots.rest(cx.now())) {
            (Some((other, outcome)), _) => {
                let outcome = cx.within(PATIENCE, outcome.wait()).await.ok_or_else(away)?;
                if other == width {
                    return outcome;
                }
            }
            (None, Some(rest)) => cx.clock.sleep(rest).await,
            (None, None) => {
                let outcome = Latch::default();
                shots.under_way.replace(Some((width, outcome.clone())));
                shots.last.set(Some(cx.now()));
                let look = Look(shots, outcome);
                let taken = take(cx, vm, width).await;
                if let Ok(shot) = &taken {
                    shots.keep(width, cx.now(), shot);
                }
                look.1.set(taken.clone());
                return taken;
            }
        }
    }
    Err(away())
}

async fn take(cx: &Cx, vm: &Vm, width: Width) -> Outcome {
    let process = Rc::clone(&vm.process.borrow());
    let path = vm.run_dir.join(FILE);
    // A name in QEMU's working folder, which is this one: its user need not be able to come here from the root.
    let written = process.execute("screendump", Some(json!({ "filename": FILE })));
    match cx.within(TAKES, written).await {
        Some(Ok(_)) => {}
        Some(Err(e)) => {
            log::debug!(vmid:% = vm.vmid, user = vm.login().as_str(); "no picture of its screen: {e}");
            return Err(away());
        }
        None => return Err(away()),
    }
    match cx.pictures.call(move || develop(&path, width)).await? {
        Ok(shot) => Ok(Rc::new(shot)),
        Err(why) => {
            log::warn!(vmid:% = vm.vmid, user = vm.login().as_str(); "no picture of its screen: {why}");
            Err(away())
        }
    }
}

/// From QEMU's file, which goes, to the picture.
fn develop(path: &Path, width: Width) -> Result<Shot, String> {
    let mut bytes = Vec::new();
    let most = ppm::most_bytes(PIXELS);
    let read = crate::sys::file::open_plain(path)
        .and_then(|file| file.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut bytes));
    let removed = std::fs::remove_file(path);
    read.and(removed).map_err(|e| format!("{}: {e}", path.display()))?;
    let picture = ppm::parse(bytes, PIXELS).ok_or("QEMU wrote no picture that can be read")?;
    let png = pack(&match width {
        Some(width) => picture.scaled(width),
        None => picture,
    })
    .map_err(|e| e.to_string())?;
    let digest = digest::digest(&digest::SHA256, &png);
    let etag = format!("\"{}\"", HEXLOWER.encode(digest.as_ref().get(..10).unwrap_or_default()));
    Ok(Shot { png, etag })
}

fn pack(picture: &Picture) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header()?.write_image_data(&picture.rgb)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_picture_of_a_width_is_kept_for_a_moment_and_never_more_than_some() {
        let (shots, start) = (Shots::default(), Instant::now());
        let shot = |size: usize| Rc::new(Shot { png: vec![0; size], etag: String::new() });
        assert_eq!(shots.rest(start), None);
        for width in 16..64 {
            shots.keep(Some(width), start, &shot(1));
        }
        assert_eq!(shots.kept.borrow().len(), KEPT);
        assert!(shots.fresh(Some(16), start).is_some() && shots.fresh(Some(63), start).is_none());
        assert!(shots.fresh(None, start).is_none() && shots.fresh(Some(16), start + FRESH).is_none());
        // The old ones make room.
        shots.keep(None, start + FRESH, &shot(1));
        assert_eq!(shots.kept.borrow().len(), 1);
        shots.keep(Some(1280), start + FRESH, &shot(KEPT_BYTES + 1));
        assert!(shots.fresh(Some(1280), start + FRESH).is_none());
    }

    #[test]
    fn a_file_that_is_no_plain_file_is_not_read() {
        let folder = tempfile::tempdir().expect("folder");
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::write(&real, b"P6\n1 1\n255\nabc").expect("file");
        std::os::unix::fs::symlink(&real, &link).expect("link");
        assert!(develop(&link, None).is_err());
        assert!(!link.exists(), "and it is gone");
        let shot = develop(&real, None).expect("a picture");
        assert!(shot.png.starts_with(b"\x89PNG\r\n\x1a\n") && shot.etag.len() == 22);
        assert!(!real.exists(), "QEMU's file is gone");
    }
}
