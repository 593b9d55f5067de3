//! `vmshare image list|add|check|remove|known`: images for everybody, from the shell.
//!
//! The library is a folder and the folder is the truth, so this needs no server: a file is copied beside its place, on the disk and checked
//! as an upload is, before it gets its name. What a VM or a kept disk needs is not removed.

use super::{note, plain, user};
use crate::config::cli_args::ImageCommand;
use crate::config::{Config, Overrides};
use crate::db::{CliDb, vms};
use crate::proto::{iso9660, qcow2};
use crate::store::known::{self, Known};
use crate::store::names::{self, Format};
use crate::store::stage::{self, Stage, StageError};
use crate::store::{Layout, images, make_folder, remove as remove_file};
use crate::sys::statvfs;
use crate::sys::user::euid;
use crate::vm::image;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

/// Bytes copied at a time.
const COPY_BYTES: usize = 1024 * 1024;

/// Does what was asked.
///
/// # Errors
/// What is wrong with it, in one line.
pub(super) fn run(overrides: &Overrides, action: ImageCommand) -> Result<(), String> {
    match action {
        ImageCommand::Check { file, format } => check(&file, format.as_deref()),
        ImageCommand::Known { json } => list_known(json),
        ImageCommand::List { user, json } => {
            let config = super::load(overrides)?;
            list(&config, user.as_deref(), json)
        }
        ImageCommand::Add { file, name, format } => {
            let (config, mut db) = open(overrides)?;
            add(&config, &mut db, &file, name.as_deref(), format.as_deref())
        }
        ImageCommand::Remove { name } => {
            let (config, mut db) = open(overrides)?;
            remove(&config, &mut db, &name)
        }
    }
}

fn open(overrides: &Overrides) -> Result<(Config, CliDb), String> {
    let config = super::load(overrides)?;
    let base = config.base_dir.display();
    if !config.base_dir.is_dir() {
        return Err(format!("{base}: there is no such folder; start the server once, or correct VM_BASE_DIR"));
    }
    let db = crate::db::open_for_cli(&super::db_settings(&config))?;
    Ok((config, db))
}

/// With what to do where that is known.
fn failed(path: &Path, e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::PermissionDenied => format!("{}: {e}; run this as the server's user or as root", path.display()),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!("{}: {e}; make room there", path.display()),
        _ => format!("{}: {e}", path.display()),
    }
}

fn list(config: &Config, who: Option<&str>, as_lines: bool) -> Result<(), String> {
    let layout = Layout::new(&config.base_dir);
    let folder = layout.images(None);
    if let Err(e) = std::fs::read_dir(&folder)
        && e.kind() != ErrorKind::NotFound
    {
        return Err(failed(&folder, &e));
    }
    let (uid, profile) = match who {
        Some(who) => {
            let mut db = crate::db::open_for_cli(&super::db_settings(config))?;
            (user::find(&mut db, who)?.id, config.profiles.get("custom"))
        }
        // Nobody's own: there are only the shared ones.
        None => (images::SHARED.to_owned(), None),
    };
    let (found, known) = (images::list(&layout, profile, &uid), known::all()?);
    if found.is_empty() && !as_lines {
        println!("no images yet: vmshare image add FILE");
    }
    for image in found {
        let title = image.sha256.as_ref().and_then(|sum| known.iter().find(|known| known.sha256 == *sum));
        if as_lines {
            let modified = jiff::Timestamp::from_second(image.modified).ok().map(|at| at.to_string());
            let line = json!({
                "name": image.name, "format": image.format.to_string(), "size": image.size, "sha256": image.sha256,
                "modified_at": modified, "shared": image.shared, "default": image.is_default,
                "title": title.map(|known| &known.title),
            });
            println!("{line}");
            continue;
        }
        let about = match (title, &image.sha256) {
            (Some(known), _) => known.title.clone(),
            (None, Some(sum)) => format!("sha256 {sum}"),
            (None, None) => "-".to_owned(),
        };
        let whose = if image.shared { "shared" } else { "own" };
        let default = if image.is_default { ", starts when none is named" } else { "" };
        println!("{:40}  {:5}  {:>12}  {whose:6}  {about}{default}", plain(&image.name), image.format, image.size);
    }
    Ok(())
}

/// What a file is: as it is said, or as its ending says; never guessed from its bytes, which a guest may have written.
fn format_of(file: &Path, given: Option<&str>) -> Result<Format, String> {
    if let Some(word) = given {
        return Format::parse(word).map_err(|problem| problem.detail);
    }
    let ending = file.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    Ok(match ending.as_deref() {
        Some("qcow2") => Format::Qcow2,
        Some("raw" | "img") => Format::Raw,
        _ => Format::Iso,
    })
}

/// A plain file, its size and its first bytes.
fn look(path: &Path) -> Result<(File, u64, Vec<u8>), String> {
    let failed = |e| failed(path, &e);
    // A named pipe must not keep us.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(format!("{}: it is no plain file", path.display()));
    }
    let mut head = Vec::with_capacity(images::HEAD_BYTES);
    (&file).take(images::HEAD_BYTES as u64).read_to_end(&mut head).map_err(failed)?;
    Ok((file, about.len(), head))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The distribution with this SHA-256; or why a file of this name should have had another.
fn recognise(name: &str, sha256: &str) -> Result<Result<Option<Known>, String>, String> {
    let known = known::all()?;
    if let Some(found) = known.iter().find(|known| known.sha256 == sha256) {
        return Ok(Ok(Some(found.clone())));
    }
    let same = known.iter().find(|known| known.file == name);
    let wrong = |known: &Known| {
        let title = &known.title;
        format!("it has the name of {title} and not its SHA-256: it was changed, or the download broke; fetch it again")
    };
    Ok(same.map_or(Ok(None), |known| Err(wrong(known))))
}

fn check(path: &Path, given: Option<&str>) -> Result<(), String> {
    let format = format_of(path, given)?;
    let (file, size, head) = look(path)?;
    let sha256 = stage::sha256_of(&file, size).map_err(|e| failed(path, &e))?;
    println!("format  {format}");
    println!("size    {size} bytes");
    match format {
        Format::Iso => iso9660::check(&head, size).iter().for_each(|info| println!("volume  {}", plain(&info.volume))),
        Format::Qcow2 => qcow2::parse(&head).iter().for_each(|info| println!("disk    {} bytes", info.size)),
        Format::Raw => {}
    }
    println!("sha256  {sha256}");
    let known = recognise(&file_name(path), &sha256)?;
    match &known {
        Ok(Some(known)) => println!("known   {} ({})", known.title, known.home),
        Ok(None) => println!("known   no"),
        Err(_) => {}
    }
    images::check(&head, size, format).map_err(|problem| format!("{}: {}", path.display(), problem.detail))?;
    known.map_err(|why| format!("{}: {why}", path.display()))?;
    match format {
        Format::Iso => println!("boots   yes, a PC starts from it"),
        Format::Qcow2 | Format::Raw => {
            println!("boots   it can be a disk; whether there is a system on it, only a start shows")
        }
    }
    Ok(())
}

/// A file that is being copied; it goes when this is dropped, unless it became the image itself.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(e) = remove_file(&self.0) {
            log::warn!("{}: {e}; vmshare clean removes it later", self.0.display());
        }
    }
}

fn add(config: &Config, db: &mut CliDb, path: &Path, name: Option<&str>, given: Option<&str>) -> Result<(), String> {
    let format = format_of(path, given)?;
    let (mut file, size, head) = look(path)?;
    images::check(&head, size, format).map_err(|problem| format!("{}: {}", path.display(), problem.detail))?;
    let name = names::image_name(&name.map_or_else(|| file_name(path), str::to_owned), format);
    let folder = Layout::new(&config.base_dir).images(None);
    if folder.join(&name).symlink_metadata().is_ok() {
        return Err(format!("{name} is in the library already: give another --name, or remove it first"));
    }
    make_folder(&folder).and_then(|()| hand_over(config, &folder)).map_err(|e| failed(&folder, &e))?;
    let free = statvfs::free_bytes(&folder).map_err(|e| failed(&folder, &e))?;
    let free = free.saturating_sub(config.limits.disk_reserve_mb << 20);
    if size > free {
        let (size, free) = (size.div_ceil(1 << 20), free >> 20);
        return Err(format!("{}: it takes {size} MiB and there is room for {free}; make room there", folder.display()));
    }
    let copy = Copy(folder.join(format!(".{name}.{}{}", crate::random::hex_id(), images::COPY_ENDING)));
    let sha256 = copy_to(&copy.0, &mut file, size, format).map_err(|why| format!("{}: {why}", path.display()))?;
    hand_over(config, &copy.0).map_err(|e| failed(&copy.0, &e))?;
    images::place(&copy.0, &folder, &name, &sha256, None).map_err(|e| failed(&folder, &e))?;
    for part in images::parts(&folder, &name) {
        hand_over(config, &part).map_err(|e| failed(&part, &e))?;
    }
    drop(copy);
    db.run(|c| note(c, "add image", &name, &sha256))?;
    println!("added {name} ({format}, {size} bytes), sha256 {sha256}");
    match recognise(&name, &sha256)? {
        Ok(Some(known)) => println!("it is {}; memory: {}", known.title, known.memory),
        Ok(None) => {}
        Err(why) => log::warn!("{name}: {why}"),
    }
    Ok(())
}

/// Copies all of it, until it is on the disk, and looks at what is there; its SHA-256.
fn copy_to(path: &Path, file: &mut File, size: u64, format: Format) -> Result<String, String> {
    let failed = |e| failed(path, &e);
    let mut stage = Stage::create(path, size).map_err(failed)?;
    let mut buffer = vec![0; COPY_BYTES];
    std::io::Seek::rewind(file).map_err(|e| e.to_string())?;
    let changed = || "it was changed while it was copied; try again".to_owned();
    loop {
        let count = file.read(&mut buffer).map_err(|e| e.to_string())?;
        if count == 0 {
            break;
        }
        stage.write(buffer.get(..count).unwrap_or_default()).map_err(|e| match e {
            StageError::TooLong => changed(),
            StageError::Io(e) => failed(e),
        })?;
    }
    if stage.length() != size {
        return Err(changed());
    }
    stage.sync().map_err(failed)?;
    let head = stage.head(images::HEAD_BYTES).map_err(failed)?;
    images::check(&head, size, format).map_err(|problem| problem.detail)?;
    stage.sha256().map_err(failed)
}

/// What root makes in the server's folder is the server's.
fn hand_over(config: &Config, path: &Path) -> io::Result<()> {
    if euid() != 0 {
        return Ok(());
    }
    let owner = config.base_dir.metadata()?;
    chown(path, Some(owner.uid()), Some(owner.gid()))
}

fn remove(config: &Config, db: &mut CliDb, name: &str) -> Result<(), String> {
    let layout = Layout::new(&config.base_dir);
    let folder = layout.images(None);
    let name = names::known_image(name).map_err(|problem| problem.detail)?;
    let file = folder.join(name);
    match file.metadata() {
        Ok(about) if about.is_file() => {}
        Err(e) if e.kind() == ErrorKind::PermissionDenied => return Err(failed(&file, &e)),
        _ => return Err(format!("there is no image {} in the library; vmshare image list shows them", plain(name))),
    }
    let live = db.run(vms::live_all_now)?;
    if let Some(by) = image::needed_by(config, &layout, &live, &file) {
        return Err(format!("{name} is needed by {by}"));
    }
    images::delete(&folder, name, &[]).map_err(|e| failed(&file, &e))?;
    db.run(|c| note(c, "delete image", name, "shared"))?;
    println!("removed {name}");
    Ok(())
}

fn list_known(as_lines: bool) -> Result<(), String> {
    for image in known::all()? {
        if as_lines {
            let line = json!({
                "name": image.name, "title": image.title, "home": image.home, "file": image.file, "size": image.size,
                "sha256": image.sha256, "desktop": image.desktop, "memory": image.memory,
            });
            println!("{line}");
            continue;
        }
        let desktop = if image.desktop { "a desktop at once" } else { "no desktop by itself" };
        println!("{}: {}, {desktop}; memory: {}", image.name, image.title, image.memory);
        println!("    {}  {}", image.sha256, image.file);
    }
    Ok(())
}
