//! Which image a launch boots, and whether it may: blocking file work, done on the `disk` threads.
//!
//! The profile names a file, a directory with a prefix, or a template, each with `{uid}`; a user may instead name one of the images he
//! may see: those of his own folder, the shared library, and the profile's folder where that is the same for all. Somebody else's image does not exist for him.
//! A file is opened first and judged by the path the kernel says it has, so no symlink leads out of the allowed places.

use super::args::BootOrder;
use super::disk_args::NewDisk;
use super::launch::{Image, Wish};
use crate::config::{BadUid, Config, ImageRule, Profile};
use crate::db::vms::VmRow;
use crate::proto::problem::Problem;
use crate::store::names::Format;
use crate::store::{Layout, disks, images};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// A file that may be booted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Canonical path, inside an allowed folder.
    pub path: PathBuf,
    /// Its file name.
    pub name: String,
    /// What it is.
    pub format: Format,
}

/// Size of a kept disk whose size nobody told, in GiB.
const KEPT_GB: u32 = 16;

/// What a launch starts from: looks at every file it would use.
///
/// # Errors
/// 404 for an image or disk that is not there (or not the caller's), 422 for one that cannot be used, each with what to do.
pub fn media(config: &Config, profile: &Profile, wish: &Wish) -> Result<Image, Problem> {
    let layout = Layout::new(&config.base_dir);
    let kept = wish.kept.as_ref().map(|kept| (kept, disks::path(&layout, &wish.user, &kept.name)));
    let there = match &kept {
        Some((kept, path)) => kept_size(path, &kept.name)?,
        None => None,
    };
    let found = match (wish.iso.as_deref(), &profile.base_disk) {
        (None, _) if there.is_some() => {
            // The disk is booted; the profile's CD is in the drive if there is one.
            find(config, profile, &wish.user, None).ok().filter(|image| image.format == Format::Iso)
        }
        (None, Some(base)) => Some(base_disk(base)?),
        (asked, _) => Some(find(config, profile, &wish.user, asked)?),
    };
    let (cd, base) = match found {
        Some(Found { format: Format::Iso, path, name }) => (Some((path, name)), None),
        Some(Found { format: Format::Qcow2, path, name }) => (None, Some((path, "qcow2", name))),
        Some(Found { format: Format::Raw, path, name }) => (None, Some((path, "raw", name))),
        None => (None, None),
    };
    if let (Some((kept, _)), Some(_), Some(_)) = (&kept, there, &base) {
        let why =
            format!("the disk {} is there already, so it cannot be made from an image; name another one", kept.name);
        return Err(Problem::unprocessable("disk", why));
    }
    let name =
        cd.as_ref().map(|(_, name)| name).or_else(|| base.as_ref().map(|(.., name)| name)).cloned().unwrap_or_default();
    let base = base.map(|(path, format, _)| (path, format));
    let order = if wish.iso.is_some() { BootOrder::Cd } else { BootOrder::Disk };
    let cd = cd.map(|(path, _)| path);
    let mut image = Image { name, cd, order, overlay: None, scratch: None, new_kept: None, kept_gb: there };
    let gb = wish.data_disk_gb;
    match (kept, there) {
        (Some((kept, _)), Some(size)) if gb.is_some_and(|gb| gb > size) => {
            let name = &kept.name;
            let detail = format!(
                "Your disk {name} is there with {size} GiB. Grow it with POST /disks/{name}/grow, or leave data_disk_gb out."
            );
            return Err(Problem::conflict("disk_smaller", detail));
        }
        (Some(_), Some(_)) => {}
        (Some((kept, _)), None) => {
            if kept.by_name && gb.is_none() && base.is_none() {
                let detail = format!("You have no disk {}. Give data_disk_gb to make it.", kept.name);
                return Err(Problem::not_found("disk_not_found", detail));
            }
            let size = base.as_ref().map(|(path, format)| size_gb(path, format));
            let made = gb.or_else(|| size.is_none().then_some(KEPT_GB.min(config.limits.max_data_disk_gb)));
            if let (Some(gb), Some(size)) = (gb, size.filter(|size| gb.is_some_and(|gb| gb < *size))) {
                let why = format!("{gb} GiB is less than the image's {size}");
                return Err(Problem::unprocessable("data_disk_gb", why));
            }
            image.kept_gb = made.or(size);
            image.new_kept = Some(NewDisk { gb: made, base });
        }
        (None, _) => {
            if let Some((path, format)) =
                base.as_ref().filter(|(path, _)| is_users_own(config, profile, &wish.user, path))
            {
                bounded(size_gb(path, format), config.limits.max_data_disk_gb)?;
            }
            image.overlay = base.map(|base| NewDisk { gb: None, base: Some(base) });
            image.scratch = gb.map(|gb| NewDisk { gb: Some(gb), base: None });
        }
    }
    Ok(image)
}

/// Whether a user brought this image himself. What an operator or administrator gives to start from may be of any size.
fn is_users_own(config: &Config, profile: &Profile, uid: &str, image: &Path) -> bool {
    let library = Layout::new(&config.base_dir).images(Some(uid)).canonicalize();
    let default = images::default_place(profile, uid);
    library.is_ok_and(|library| image.starts_with(library))
        || default.is_some_and(|default| images::is_same(&default, image))
}

/// What a guest may fill of an overlay is as much as the image says it has.
fn bounded(gb: u32, most: u32) -> Result<(), Problem> {
    if gb <= most {
        return Ok(());
    }
    let why =
        format!("is a disk of {gb} GiB, and {most} are the most a VM may write to; keep it as a disk of your own");
    Err(Problem::unprocessable("iso", why))
}

/// The size in GiB of a kept disk, if it is there.
fn kept_size(path: &Path, name: &str) -> Result<Option<u32>, Problem> {
    match path.symlink_metadata() {
        Err(_) => Ok(None),
        Ok(about) => {
            let damaged =
                || Problem::unprocessable("disk", format!("{name} is no qcow2 disk any more; restore a backup of it"));
            let info =
                Some(about).filter(std::fs::Metadata::is_file).and_then(|_| disks::header(path)).ok_or_else(damaged)?;
            Ok(Some(u32::try_from(info.size.div_ceil(1 << 30)).unwrap_or(u32::MAX)))
        }
    }
}

/// Size in GiB of an image as the guest sees it.
#[must_use]
pub fn size_gb(path: &Path, format: &str) -> u32 {
    let bytes = match format {
        "qcow2" => disks::header(path).map_or(0, |info| info.size),
        _ => path.metadata().map_or(0, |about| about.len()),
    };
    u32::try_from(bytes.div_ceil(1 << 30)).unwrap_or(u32::MAX)
}

/// The disk that an operator's profile starts everybody from.
fn base_disk(path: &Path) -> Result<Found, Problem> {
    let missing = |e: std::io::Error| {
        log::error!("base_disk {}: {e}", path.display());
        Problem::not_found("iso_not_found", "The disk this profile starts from cannot be read. Tell the operator.")
    };
    let mut file = File::open(path).map_err(missing)?;
    let head = read_head(&mut file).map_err(missing)?;
    let format = Format::of(&file_name(path));
    let format = if format == Format::Iso { Format::Qcow2 } else { format };
    images::check(&head, file.metadata().map_err(missing)?.len(), format)?;
    Ok(Found { path: path.canonicalize().map_err(missing)?, name: file_name(path), format })
}

/// The CD and the order for a VM that is started once more: what it was started from, disks first.
///
/// # Errors
/// As [`media`].
pub fn cd_again(config: &Config, profile: &Profile, uid: &str, name: &str) -> Result<Option<PathBuf>, Problem> {
    if name.is_empty() {
        return Ok(None);
    }
    let own = find(config, profile, uid, None).ok().filter(|image| image.name == name);
    let found = match (own, &profile.base_disk) {
        (Some(image), _) => image,
        (None, Some(base)) if file_name(base) == name => return Ok(None),
        (None, _) => find(config, profile, uid, Some(name))?,
    };
    Ok((found.format == Format::Iso).then_some(found.path))
}

/// True when a VM that was started from `iso` uses `file`.
#[must_use]
pub fn is_started_from(config: &Config, profile: &Profile, uid: &str, iso: &str, file: &Path) -> bool {
    let own = find(config, profile, uid, None).ok().filter(|image| image.name == iso);
    let found = own.or_else(|| find(config, profile, uid, Some(iso)).ok());
    found.is_some_and(|image| images::is_same(&image.path, file))
}

/// What an image is needed by, and what to do about it: a VM among `live` that was started from this file, or a disk that is an overlay of it.
#[must_use]
pub fn needed_by(config: &Config, layout: &Layout, live: &[VmRow], file: &Path) -> Option<String> {
    let running = || "a running VM: stop it first".to_owned();
    let started = live.iter().any(|row| {
        let profile = config.profiles.get(&row.profile);
        profile.is_some_and(|profile| is_started_from(config, profile, &row.user_id, &row.iso, file))
    });
    if started {
        return Some(running());
    }
    let overlay = disks::overlay_of(layout, file)?;
    Some(overlay.map_or_else(running, |disk| format!("the disk {disk}: remove that first")))
}

/// Opens, locates and checks an image.
///
/// # Errors
/// 404 when there is none (or it is not the caller's), 422 when it is no bootable image, each with what to do.
pub fn find(config: &Config, profile: &Profile, uid: &str, asked: Option<&str>) -> Result<Found, Problem> {
    let rule = rule(profile, uid)?;
    let own = rule.path();
    let path = match asked {
        None => own.clone(),
        Some(asked) => locate(config, uid, &own, common_folder(config, profile, &rule).as_deref(), asked)?,
    };
    check(&path, &allowed(config, profile, &rule, uid), asked.is_none())
}

/// Name and size of what the profile starts for this user who names nothing, if that is there; for lists.
#[must_use]
pub fn usual(profile: &Profile, uid: &str) -> Option<(String, u64)> {
    let path = match &profile.base_disk {
        Some(base) => base.clone(),
        None => rule(profile, uid).ok()?.path(),
    };
    let size = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?.len();
    Some((file_name(&path), size))
}

/// What the profile's rule gives for this user.
fn rule(profile: &Profile, uid: &str) -> Result<ImageRule, Problem> {
    let bad = |e: BadUid| Problem::internal(e.to_string());
    let is_directory = profile.image_base(uid).map_err(bad)?.is_dir();
    profile.image_rule(uid, is_directory).map_err(bad)
}

/// The folder (canonical) of a profile that has the same images for all; each of them may be asked for. Not one in which any profile, or the
/// server, has files of single users.
fn common_folder(config: &Config, profile: &Profile, rule: &ImageRule) -> Option<PathBuf> {
    let ImageRule::InDirectory { dir, .. } = rule else { return None };
    if profile.names_users() {
        return None;
    }
    let (dir, base) = (dir.canonicalize().ok()?, config.base_dir.canonicalize().ok()?);
    let users = config.profiles.values().filter(|profile| profile.names_users()).map(Profile::allowed_root);
    let users = users.chain([base.join("uploads")]).filter_map(|folder| folder.canonicalize().ok());
    // A profile of one file has no folder of users.
    let is_theirs =
        base.starts_with(&dir) || users.into_iter().any(|folder| folder.is_dir() && folder.starts_with(&dir));
    (!is_theirs).then_some(dir)
}

/// What a user's `iso` or `iso_path` means.
fn locate(config: &Config, uid: &str, own: &Path, common: Option<&Path>, asked: &str) -> Result<PathBuf, Problem> {
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
    let layout = Layout::new(&config.base_dir);
    let mine = layout.images(Some(uid)).join(asked);
    let beside = common.map(|folder| folder.join(asked));
    let known = [Some(mine), beside].into_iter().flatten().find(|path| path.exists());
    Ok(known.unwrap_or_else(|| layout.images(None).join(asked)))
}

/// Files and folders (canonical) this user may boot from.
fn allowed(config: &Config, profile: &Profile, rule: &ImageRule, uid: &str) -> Vec<PathBuf> {
    let mut places = Vec::from_iter(common_folder(config, profile, rule));
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
    let layout = Layout::new(&config.base_dir);
    let folders = [layout.images(Some(uid)), layout.images(None)];
    places.extend(folders.iter().filter_map(|folder| folder.canonicalize().ok()));
    places
}

/// Whether a disk of this user may be an overlay of the image whose canonical path this is.
#[must_use]
pub fn may_back(config: &Config, uid: &str, image: &Path) -> bool {
    config.profiles.values().any(|profile| {
        let of_all = profile.base_disk.as_ref().and_then(|base| base.canonicalize().ok());
        let own = rule(profile, uid).map(|rule| allowed(config, profile, &rule, uid)).unwrap_or_default();
        of_all.iter().any(|base| base == image) || own.iter().any(|place| image.starts_with(place))
    })
}

fn check(path: &Path, allowed: &[PathBuf], is_default: bool) -> Result<Found, Problem> {
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
    let format = Format::of(&file_name(&real));
    images::check(&head, about.len(), format)?;
    Ok(Found { name: file_name(&real), path: real, format })
}

fn read_head(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(images::HEAD_BYTES);
    file.take(images::HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
