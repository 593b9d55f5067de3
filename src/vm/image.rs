//! Which image a launch boots, and whether it may: blocking file work, done on the `disk` threads.
//!
//! The profile names a file, a directory with a prefix, or a template, each with `{uid}`; a user may instead name one of the images he
//! may see: those of his own folder and the shared library. Somebody else's image does not exist for him.
//! A file is opened first and judged by the path the kernel says it has, so no symlink leads out of the allowed places.

use super::launch::Image;
use crate::config::{BadUid, Config, ImageRule, Profile};
use crate::proto::iso9660;
use crate::proto::problem::Problem;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// Opens, locates and checks the image of a launch.
///
/// # Errors
/// 404 when there is none (or it is not the caller's), 422 when it is no bootable image, each with what to do.
pub fn find(config: &Config, profile: &Profile, uid: &str, asked: Option<&str>) -> Result<Image, Problem> {
    let rule = rule(profile, uid)?;
    let own = rule.path();
    let path = match asked {
        None => own.clone(),
        Some(asked) => locate(config, uid, &own, asked)?,
    };
    check(&path, &allowed(config, &rule, uid), asked.is_none())
}

/// The size of the profile's image for this user, if there is one; for lists.
#[must_use]
pub fn own_size(profile: &Profile, uid: &str) -> Option<(String, u64)> {
    let path = rule(profile, uid).ok()?.path();
    let size = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?.len();
    Some((file_name(&path), size))
}

/// What the profile's rule gives for this user.
fn rule(profile: &Profile, uid: &str) -> Result<ImageRule, Problem> {
    let bad = |e: BadUid| Problem::internal(e.to_string());
    let is_directory = profile.image_base(uid).map_err(bad)?.is_dir();
    profile.image_rule(uid, is_directory).map_err(bad)
}

/// What a user's `iso` or `iso_path` means.
fn locate(config: &Config, uid: &str, own: &Path, asked: &str) -> Result<PathBuf, Problem> {
    let path = Path::new(asked);
    let plain = path.components().all(|c| matches!(c, Component::Normal(_) | Component::RootDir));
    if asked.is_empty() || asked.len() > 4096 || asked.contains('\0') || !plain {
        return Err(Problem::unprocessable("iso_path", "must be the name of one of your images, without . or .."));
    }
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    if path.components().count() != 1 {
        return Err(Problem::unprocessable("iso", "must be a file name without folders"));
    }
    if own.file_name().is_some_and(|name| name == asked) {
        return Ok(own.to_owned());
    }
    let mine = config.base_dir.join("users").join(uid).join(asked);
    Ok(if mine.exists() { mine } else { config.base_dir.join("images").join(asked) })
}

/// Files and folders (canonical) this user may boot from.
fn allowed(config: &Config, rule: &ImageRule, uid: &str) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Ok(file) = rule.path().canonicalize() {
        let inside = match rule {
            // Only the user's own file of that folder; a link from there must not leave it.
            ImageRule::InDirectory { dir, .. } => dir.canonicalize().is_ok_and(|dir| file.starts_with(dir)),
            // The operator named this file himself, wherever it leads.
            ImageRule::File(_) => true,
        };
        if inside {
            places.push(file);
        }
    }
    let folders = [config.base_dir.join("users").join(uid), config.base_dir.join("images")];
    places.extend(folders.iter().filter_map(|folder| folder.canonicalize().ok()));
    places
}

fn check(path: &Path, allowed: &[PathBuf], is_default: bool) -> Result<Image, Problem> {
    let missing = || {
        let detail = if is_default {
            "There is no image for you to start yet. Upload an ISO first, or ask your teacher for one.".to_owned()
        } else {
            format!("There is no image {} that you may start.", file_name(path))
        };
        Problem::not_found("iso_not_found", detail)
    };
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let mut file = opened.map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied => {
            log::error!("{}: the server may not read it; give its user the right to", path.display());
            Problem::not_found("iso_not_found", "The server may not read this image. Tell the operator.")
        }
        _ => missing(),
    })?;
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|_| missing())?;
    if !allowed.iter().any(|place| real.starts_with(place)) {
        return Err(missing());
    }
    let about = file.metadata().map_err(|_| missing())?;
    if !about.is_file() && !about.file_type().is_block_device() {
        return Err(missing());
    }
    let head = read_head(&mut file).map_err(|e| {
        log::error!("{}: {e}", real.display());
        Problem::internal("The image cannot be read; the server's log says why.")
    })?;
    iso9660::check(&head, about.len()).map_err(|e| Problem::unprocessable("iso", e.to_string()))?;
    Ok(Image { name: file_name(&real), path: real })
}

fn read_head(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(iso9660::HEAD_BYTES);
    file.take(iso9660::HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
