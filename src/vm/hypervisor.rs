//! QEMU on this host: where it is, which version, and whether KVM really works. Found at the start, on a `disk` thread.

use super::accel::{self, Choice, Host, Wish};
use super::apart::Users;
use super::args::{Accel, QemuVersion};
use super::programs;
use crate::config::{AccelWish, Config};
use crate::house::Cx;
use crate::proto::problem::Problem;
use crate::reactor::task::Latch;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// What was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// Its version.
    pub version: QemuVersion,
    /// `qemu-img`, where it is installed.
    pub qemu_img: Option<PathBuf>,
    /// KVM or TCG, and why.
    pub choice: Choice,
}

/// Looks for QEMU and tries the accelerator. Blocks, for some seconds at the first start.
///
/// # Errors
/// What is missing and how to install it.
pub fn look(config: &Config) -> Result<Found, String> {
    let words = |e: programs::ProgramError| e.to_string();
    let qemu = programs::find_qemu(config.qemu_bin.as_deref()).map_err(words)?;
    let version = programs::version(&qemu).map_err(words)?;
    let qemu_img = programs::find_qemu_img(config.qemu_img_bin.as_deref()).ok();
    let wish = match config.accel {
        AccelWish::Auto => Wish::Auto,
        AccelWish::Kvm => Wish::Kvm,
        AccelWish::Tcg => Wish::Tcg,
    };
    let choice = accel::choose(wish, &host(&qemu, version, &cache(config), &Users::look(config), &groups()));
    Ok(Found { qemu, version, qemu_img, choice })
}

/// As the VMs will run.
fn host<'a>(qemu: &'a Path, version: QemuVersion, cache_file: &'a Path, users: &Users, groups: &'a [u32]) -> Host<'a> {
    Host { qemu, version, uid_gid: users.any(), groups, cache_file }
}

/// The groups of VMs with a user of their own.
#[must_use]
pub fn groups() -> Vec<u32> {
    crate::sys::kvm::device_group().into_iter().collect()
}

fn cache(config: &Config) -> PathBuf {
    config.base_dir.join("accel.json")
}

/// The room: empty until [`Hypervisor::begin`]'s story has looked.
#[derive(Default)]
pub struct Hypervisor {
    found: RefCell<Option<Result<Found, String>>>,
    /// Set when it has been looked for.
    pub looked: Latch<()>,
}

impl Hypervisor {
    /// Starts looking; launches are answered 503 until it is done.
    pub fn begin(cx: &Cx) {
        let story = Rc::clone(cx);
        cx.spawner.spawn("look for qemu", async move {
            let config = Arc::clone(&story.config);
            let found = match story.disk(move || look(&config)).await {
                Ok(found) => found,
                Err(problem) => Err(problem.detail),
            };
            match &found {
                Ok(found) => log::info!(
                    "qemu {} at {}, accelerator {}: {}",
                    found.version,
                    found.qemu.display(),
                    found.choice.accel,
                    found.choice.why
                ),
                Err(why) => log::error!("no VM can be started: {why}"),
            }
            story.hypervisor.found.replace(Some(found));
            story.hypervisor.looked.set(());
        });
    }

    /// QEMU and its version.
    ///
    /// # Errors
    /// 503 while it is looked for or when it is missing.
    pub fn qemu(&self) -> Result<(PathBuf, QemuVersion), Problem> {
        self.found().map(|found| (found.qemu, found.version))
    }

    /// `qemu-img`.
    ///
    /// # Errors
    /// 503 when it is missing.
    pub fn qemu_img(&self) -> Result<PathBuf, Problem> {
        let missing =
            || Problem::unavailable("qemu_missing", "qemu-img is not installed on this server. Tell the operator.", 60);
        self.found()?.qemu_img.ok_or_else(missing)
    }

    /// What executes guests.
    #[must_use]
    pub fn accel(&self) -> Accel {
        self.found().map_or(Accel::Tcg, |found| found.choice.accel)
    }

    /// The whole finding, for `/readyz`.
    ///
    /// # Errors
    /// As [`Hypervisor::qemu`].
    pub fn found(&self) -> Result<Found, Problem> {
        match &*self.found.borrow() {
            Some(Ok(found)) => Ok(found.clone()),
            Some(Err(why)) => Err(Problem::unavailable("qemu_missing", why.clone(), 60)),
            None => Err(Problem::unavailable("starting", "The server is starting. Try again in a moment.", 2)),
        }
    }

    /// A guest died under KVM: TCG from now on, remembered over restarts until QEMU or the kernel changes.
    pub async fn kvm_failed(&self, cx: &Cx, why: &str) -> bool {
        let Ok(mut found) = self.found() else { return false };
        if found.choice.accel == Accel::Kvm {
            log::warn!("KVM does not work on this host ({why}): VMs run under TCG, slower, from now on");
            found.choice = Choice { accel: Accel::Tcg, why: why.to_owned(), from_cache: false };
            let (cache, kept) = (cache(&cx.config), found.clone());
            self.found.replace(Some(Ok(found)));
            let why = why.to_owned();
            let users = cx.apart.users().clone();
            let remember =
                move || accel::remember_failure(&host(&kept.qemu, kept.version, &cache, &users, &groups()), &why);
            let written = cx.disk(remember).await;
            if let Ok(Err(e)) = written {
                log::error!("the choice of TCG cannot be kept: {e}");
            }
        }
        true
    }
}
