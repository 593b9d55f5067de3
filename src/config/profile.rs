//! Profiles: what a VM is started from, its ports, its size and how it is kept apart.
//!
//! The image rule is the old version's: `base_image` is a directory (then `prefix` names the file in it), a file, or a
//! template of either with `{uid}`, the user's id. Which of the two it is only the disk can say, so the caller stats
//! `Profile::image_base` and hands the answer to `Profile::image_rule`; nothing in here touches the disk.

use super::error::ConfigError;
use super::table::{Given, settings};
use super::value::{Minutes, choices};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

choices! {
    /// What happens to what the guest writes.
    Persistence {
        /// Thrown away when the VM ends.
        Ephemeral = "ephemeral",
        /// Kept on a disk of the user's own.
        Persistent = "persistent",
    } shape "ephemeral|persistent"
}

choices! {
    /// What the guest can reach.
    Network {
        /// No network card.
        None = "none",
        /// A card with DHCP and no way out.
        Restricted = "restricted",
        /// The internet, but neither the host nor private addresses.
        Internet = "internet",
    } shape "none|restricted|internet"
}

choices! {
    /// Where QEMU's VNC listens.
    VncListen {
        /// On a unix socket in the VM's own folder, for the relay only.
        Unix = "unix",
        /// On `vnc_host` and a port of the range, for native viewers on the host.
        Tcp = "tcp",
    } shape "unix|tcp"
}

choices! {
    /// The VM's graphics card.
    Video {
        /// The plain VGA card, for guests without a virtio driver.
        Std = "std",
        /// virtio-vga: the screen follows the size of the browser window.
        Virtio = "virtio",
    } shape "std|virtio"
}

settings! {
    /// A profile as it is written.
    pub(super) struct Written in "profiles.NAME" {
        /// The name shown to people; the profile's own name if unset.
        title: Option<String> = "";
        /// A directory, a file, or a template of either with {uid}; relative to the file that names it.
        base_image: String = "{VM_BASE_DIR}/uploads";
        /// The file in base_image where that is a directory; {uid} is the user's id.
        prefix: String = "{uid}.iso";
        /// Ports for QEMU's VNC, one per VM: 99 ports allow 99 VMs, widen both ranges for more.
        vnc_port_range: RangeInclusive<u16> = "[5901, 5999]", 1024..=65_535;
        /// Numbers of the VMs' websocket paths, /ws/6101, one per VM; no port is opened for them.
        http_port_range: RangeInclusive<u16> = "[6101, 6199]", 1024..=65_535;
        /// Memory of a VM whose user asks for none.
        default_memory_mb: u32 = "2048", 16..=1_048_576;
        /// CPUs of a VM whose user asks for none.
        default_cpus: u32 = "2", 1..=255;
        /// The most memory a user may ask for; 4096 or default_memory_mb, whichever is more, if unset.
        max_memory_mb: Option<u32> = "", 16..=1_048_576;
        /// The most CPUs a user may ask for; 4 or default_cpus, whichever is more, if unset.
        max_cpus: Option<u32> = "", 1..=255;
        /// What happens to what the guest writes: ephemeral throws it away with the VM, persistent keeps it on a disk called default.
        persistence: Persistence = "ephemeral";
        /// What the guest can reach: nothing (none), a network without a way out (restricted), or the internet but no private address (internet).
        network: Network = "restricted";
        /// Where QEMU's VNC listens: unix is reachable by the relay only, tcp by every user of the host.
        vnc: VncListen = "unix";
        /// The graphics card: virtio can follow the browser window's size, std suits guests without its driver.
        video: Video = "virtio";
        /// Minutes without a key, a pointer movement or typing in the terminal after which a VM ends; 0.5 is half a minute, 0 never.
        idle_minutes: Minutes = "0", 0..=525_600;
        /// Minutes after which a VM ends, whatever goes on in it, restarts included; 0 never.
        max_minutes: Minutes = "0", 0..=525_600;
        /// A disk image (qcow2, or raw by its name) that every VM starts from, as an overlay of its own; no ISO is needed then.
        base_disk: Option<PathBuf> = "";
    }
}

/// One way to start a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name in the API.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// A directory, a file, or a template of either with `{uid}`; absolute.
    pub base_image: String,
    /// The file in `base_image` where that is a directory.
    pub prefix: String,
    /// Ports for QEMU's VNC.
    pub vnc_ports: RangeInclusive<u16>,
    /// Numbers of the websocket paths.
    pub http_ports: RangeInclusive<u16>,
    /// Memory if the user asks for none.
    pub default_memory_mb: u32,
    /// CPUs if the user asks for none.
    pub default_cpus: u32,
    /// The most memory; at least the default.
    pub max_memory_mb: u32,
    /// The most CPUs; at least the default.
    pub max_cpus: u32,
    /// What happens to what the guest writes.
    pub persistence: Persistence,
    /// What the guest can reach.
    pub network: Network,
    /// Where QEMU's VNC listens.
    pub vnc: VncListen,
    /// The graphics card.
    pub video: Video,
    /// Ends a VM that had no input for so long.
    pub idle_limit: Option<Duration>,
    /// Ends a VM after a time.
    pub time_limit: Option<Duration>,
    /// A disk every VM gets an overlay of.
    pub base_disk: Option<PathBuf>,
}

/// The image a profile gives to a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageRule {
    /// Exactly this file.
    File(PathBuf),
    /// A file inside a directory.
    InDirectory {
        /// The directory.
        dir: PathBuf,
        /// The file's name, without any `/`.
        name: String,
    },
}

impl ImageRule {
    /// The file to look for.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::File(file) => file.clone(),
            Self::InDirectory { dir, name } => dir.join(name),
        }
    }
}

/// A user's id that cannot be part of a path; ids are made by the database, so this is a bug, not a mistake of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadUid;

impl fmt::Display for BadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the user's id has characters other than letters, digits, - and _; it cannot be part of a path")
    }
}

impl std::error::Error for BadUid {}

const UID: &str = "{uid}";

impl Profile {
    /// `base_image` for the user `uid`. The caller finds out whether it is a directory.
    pub fn image_base(&self, uid: &str) -> Result<PathBuf, BadUid> {
        fill(&self.base_image, uid).map(PathBuf::from)
    }

    /// The image for the user `uid`, given whether `image_base` is a directory.
    pub fn image_rule(&self, uid: &str, base_is_directory: bool) -> Result<ImageRule, BadUid> {
        let base = self.image_base(uid)?;
        if base_is_directory {
            Ok(ImageRule::InDirectory { dir: base, name: fill(&self.prefix, uid)? })
        } else {
            Ok(ImageRule::File(base))
        }
    }

    /// Whether its names have the user's id in them; that of `prefix` counts where `base_image` is a directory.
    #[must_use]
    pub fn names_users(&self) -> bool {
        [&self.base_image, &self.prefix].iter().any(|template| template.contains(UID))
    }

    /// The file or folder that holds all images of this profile: `base_image` up to the part with `{uid}`.
    #[must_use]
    pub fn allowed_root(&self) -> PathBuf {
        Path::new(&self.base_image)
            .components()
            .take_while(|part| !part.as_os_str().to_string_lossy().contains(UID))
            .collect()
    }

    /// Reads and checks `[profiles.NAME]`; all defaults where there is no such table.
    pub(super) fn read(given: &Given, name: &str, base_dir: &Path) -> Result<Self, ConfigError> {
        let section = format!("profiles.{name}");
        let written = Written::read(given, &section)?;
        let checks = Checks { given, section: &section };
        let base_image = checks.template(&written.base_image, base_dir)?;
        checks.prefix(&written.prefix)?;
        let max_memory_mb = written.max_memory_mb.unwrap_or_else(|| written.default_memory_mb.max(4096));
        let max_cpus = written.max_cpus.unwrap_or_else(|| written.default_cpus.max(4));
        checks.at_least("max_memory_mb", max_memory_mb, "default_memory_mb", written.default_memory_mb)?;
        checks.at_least("max_cpus", max_cpus, "default_cpus", written.default_cpus)?;
        Ok(Self {
            name: name.to_owned(),
            title: written.title.unwrap_or_else(|| name.to_owned()),
            base_image,
            prefix: written.prefix,
            vnc_ports: written.vnc_port_range,
            http_ports: written.http_port_range,
            default_memory_mb: written.default_memory_mb,
            default_cpus: written.default_cpus,
            max_memory_mb,
            max_cpus,
            persistence: written.persistence,
            network: written.network,
            vnc: written.vnc,
            video: written.video,
            idle_limit: written.idle_minutes.limit(),
            time_limit: written.max_minutes.limit(),
            base_disk: written.base_disk.map(|disk| given.folder(&format!("{section}.base_disk")).join(disk)),
        })
    }
}

/// Checks of one profile that look at more than one value.
struct Checks<'a> {
    given: &'a Given,
    section: &'a str,
}

impl Checks<'_> {
    fn refuse(&self, key: &str, wrong: impl Into<String>, mend: impl Into<String>) -> ConfigError {
        self.given.refuse(&format!("{}.{key}", self.section), wrong, mend)
    }

    /// `base_image` as an absolute path in which `{uid}` is the only placeholder.
    fn template(&self, written: &str, base_dir: &Path) -> Result<String, ConfigError> {
        let mend = "write a path such as /var/lib/vmshare/uploads or {VM_BASE_DIR}/users/{uid}.iso";
        if has_other_placeholder(&written.replace("{VM_BASE_DIR}", "")) {
            return Err(self.refuse("base_image", "it has a placeholder besides {uid} and {VM_BASE_DIR}", mend));
        }
        if Path::new(written).components().any(|part| part == Component::ParentDir) {
            return Err(self.refuse("base_image", "it has .. in it", mend));
        }
        let folder = self.given.folder(&format!("{}.base_image", self.section));
        let path = folder.join(written.replace("{VM_BASE_DIR}", &base_dir.to_string_lossy()));
        path.into_os_string().into_string().map_err(|_| self.refuse("base_image", "its folder is not UTF-8", mend))
    }

    fn prefix(&self, written: &str) -> Result<(), ConfigError> {
        let mend = "write the name of a file, such as {uid}.iso";
        if has_other_placeholder(written) {
            return Err(self.refuse("prefix", "it has a placeholder besides {uid}", mend));
        }
        if written.contains('/') || written == "." || written == ".." {
            return Err(self.refuse("prefix", "it names more than a file inside base_image", mend));
        }
        Ok(())
    }

    fn at_least(&self, key: &str, most: u32, default_key: &str, default: u32) -> Result<(), ConfigError> {
        if most >= default {
            return Ok(());
        }
        let wrong = format!("{most} is less than {default_key}, which is {default}");
        Err(self.refuse(key, wrong, format!("write at least {default}, or lower {default_key}")))
    }
}

fn has_other_placeholder(template: &str) -> bool {
    template.replace(UID, "").contains(['{', '}'])
}

fn fill(template: &str, uid: &str) -> Result<String, BadUid> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=64).contains(&uid.len()) && uid.bytes().all(plain) { Ok(template.replace(UID, uid)) } else { Err(BadUid) }
}
