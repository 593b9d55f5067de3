//! Bounds what a VM may take of the host by control groups: processor time, memory, threads, and its share of the disk.
//!
//! One group a VM, which QEMU is born into. Version 2 is used where a group is delegated to us, version 1 where that is what the host
//! has, and nothing where there is neither: `vmshare check` says so. Under version 2 a group with limits below it may hold no processes
//! itself, so we first move into a leaf, or, in a group that was made for VMs, whoever holds it.
//!
//! Under systemd that group is a service's own which is never restarted (`conf/vmshare-vms.service`): systemd cannot start a service
//! in whose group VMs of its former run still are. Elsewhere it is the server's own.
//!
//! Memory is the guest's and what QEMU needs beside it; a QEMU that takes more is ended by the kernel, and the VM's end says so.
//! The limits are the kernel's from then on: they hold while the server is away, and a server that takes a VM back need do nothing.
//! Groups are named by the base folder too, so two servers of one host never touch each other's. Blocking, but never for long.
//!
//! Sources: cgroups(7); the kernel's cgroup-v2.rst ("No Internal Process Constraint") and cgroup-v1; systemd's CGROUP_DELEGATION.

use crate::config::Config;
use crate::sys::rights::{self, Right};
use data_encoding::HEXLOWER;
use ring::digest;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of processor time, in microseconds.
const PERIOD: u64 = 100_000;
/// Memory of QEMU's own in MiB, beside an eighth of the guest's: translated code, the picture, its threads' stacks.
const QEMU_MB: u64 = 256;
/// Threads of QEMU's own, beside one a processor: it reads and writes with up to 64.
const THREADS: u64 = 160;
/// The server's weight; a VM's is 100. It takes little, and everybody waits for it.
const SERVER_WEIGHT: u64 = 1000;
/// A VM's weight at the disk among the groups beside its own: other VMs', and the server's at 100 where that is one of them.
const DISK_WEIGHT: u32 = 50;
/// How often and how long a group is waited for whose last process is on its way out.
const LEAVING: (u32, Duration) = (50, Duration::from_millis(10));
/// The leaf for the processes that were in the group before: the server, or whoever holds it.
const LEAF: &str = "server";
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// Of version 1, where it is there: it bounds nothing, it counts, and has BFQ's weight.
const BLKIO: &str = "blkio";

/// What a VM may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The guest's memory in MiB.
    pub memory_mb: u32,
    /// Its processors.
    pub cpus: u32,
}

/// Where groups can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tree {
    /// Below this group of version 2.
    V2(PathBuf),
    /// Below these of version 1, by controller.
    V1(Vec<(&'static str, PathBuf)>),
    /// Nowhere, for this reason.
    Nowhere(String),
}

/// The groups of one server's VMs.
#[derive(Debug, Clone)]
pub struct Groups {
    tree: Tree,
    mark: String,
    /// The group was made for VMs: who is in it only holds it.
    is_given: bool,
}

impl Groups {
    /// Looks what this host offers and this process may use; changes nothing that lasts.
    #[must_use]
    pub fn look(config: &Config) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (own, mounts) = (read("/proc/self/cgroup"), read("/proc/self/mounts"));
        Self::of(&config.base_dir, config.vm_cgroup.as_deref(), &own, &mounts)
    }

    fn of(base_dir: &Path, given: Option<&Path>, own: &str, mounts: &str) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let hash = digest::digest(&digest::SHA256, base_dir.as_os_str().as_bytes());
        let mark = HEXLOWER.encode(hash.as_ref().get(..4).unwrap_or_default());
        let parent = match given {
            // A QEMU begins in the server's group; to move it into another's takes a right over what is above both.
            Some(_) if !matches!(rights::missing(&[Right::DacOverride]).as_deref(), Ok([])) => {
                Err("vm_cgroup needs CAP_DAC_OVERRIDE, which moves VMs there".into())
            }
            Some(given) => usable(given.to_owned()),
            None => version_2(own, mounts).and_then(usable),
        };
        let tree = match (parent, version_1(own, mounts, &mark)) {
            (Ok(parent), _) => Tree::V2(parent),
            (Err(_), Ok(all)) => Tree::V1(all),
            (Err(two), Err(one)) => Tree::Nowhere(format!("control groups: {two}; version 1: {one}")),
        };
        Self { tree, mark, is_given: given.is_some() }
    }

    /// Moves the processes of the group into its leaf, where the version asks for that. Once, before there are threads or children.
    ///
    /// # Errors
    /// The kernel's; there are no limits then.
    pub fn enter(&mut self) -> io::Result<()> {
        let Tree::V2(parent) = &self.tree else { return Ok(()) };
        let entered = (|| {
            let leaf = parent.join(LEAF);
            make(&leaf)?;
            if self.is_given {
                for pid in fs::read_to_string(parent.join("cgroup.procs"))?.lines() {
                    fs::write(leaf.join("cgroup.procs"), pid)?;
                }
            } else {
                // Somebody's shell may be there too; with it, the next step fails.
                fs::write(leaf.join("cgroup.procs"), "0")?;
            }
            for controller in CONTROLLERS {
                fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))?;
            }
            // Not everywhere; then there are no shares of the disk.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+io");
            let _ = fs::write(leaf.join("cpu.weight"), SERVER_WEIGHT.to_string());
            Ok(())
        })();
        if let Err(e) = &entered {
            let why =
                format!("{}: {e}; is the group delegated to this process, and nobody else in it?", parent.display());
            self.tree = Tree::Nowhere(why);
        }
        entered
    }

    /// Why there are no limits, if there are none.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        self.place().err()
    }

    /// Whether a VM's group has a weight at the disk. Not everywhere: a unit may delegate the other controllers and not this one.
    #[must_use]
    pub fn weigh_disks(&self) -> bool {
        match &self.tree {
            Tree::V2(parent) => offers(parent).is_ok_and(|offered| offered.iter().any(|controller| controller == "io")),
            Tree::V1(all) => all.iter().any(|(controller, _)| *controller == BLKIO),
            Tree::Nowhere(_) => false,
        }
    }

    /// Where VMs' groups are made; under version 1 the one that bounds memory.
    ///
    /// # Errors
    /// Why there are no limits.
    pub fn place(&self) -> Result<&Path, &str> {
        match &self.tree {
            Tree::V2(parent) => Ok(parent),
            Tree::V1(all) => all.first().map(|(_, parent)| parent.as_path()).ok_or("no controllers"),
            Tree::Nowhere(why) => Err(why),
        }
    }

    /// Makes a VM's groups with their limits. The files are for whoever is born into them; none where there are no groups.
    ///
    /// # Errors
    /// The kernel's; nothing is left then.
    pub fn make(&self, vmid: &str, limits: Limits) -> io::Result<Vec<File>> {
        let made = self.folders(vmid).into_iter().map(|(controllers, folder)| {
            make(&folder)?;
            for (file, value, needed) in controllers.iter().flat_map(|c| settings(c, self.is_v2(), limits)) {
                match fs::write(folder.join(file), value) {
                    Err(e) if needed => return Err(e),
                    _ => {}
                }
            }
            OpenOptions::new().write(true).create(true).truncate(false).open(folder.join("cgroup.procs"))
        });
        let made: io::Result<Vec<File>> = made.collect();
        if made.is_err() {
            self.remove(vmid);
        }
        made
    }

    /// Removes a VM's groups; its processes are gone or on their way out.
    pub fn remove(&self, vmid: &str) {
        for (_, folder) in self.folders(vmid) {
            for _ in 0..LEAVING.0 {
                match fs::remove_dir(&folder) {
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) => std::thread::park_timeout(LEAVING.1),
                    Ok(()) => break,
                    Err(e) if e.kind() == ErrorKind::NotFound => break,
                    Err(e) => {
                        log::error!(vmid = vmid; "{}: {e}", folder.display());
                        break;
                    }
                }
            }
        }
    }

    /// Removes groups of this server's VMs but those of `kept`.
    pub fn sweep(&self, kept: &HashSet<String>) {
        let prefix = format!("vmshare-{}-", self.mark);
        let parents: Vec<&PathBuf> = match &self.tree {
            Tree::V2(parent) => vec![parent],
            Tree::V1(all) => all.iter().map(|(_, parent)| parent).collect(),
            Tree::Nowhere(_) => Vec::new(),
        };
        for entry in parents.into_iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(vmid) = name.strip_prefix(&prefix).filter(|vmid| !kept.contains(*vmid)) {
                self.remove(vmid);
            }
        }
    }

    /// Whether the kernel ended a process of this VM because it took more memory than it may.
    #[must_use]
    pub fn was_short_of_memory(&self, vmid: &str) -> bool {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        let said = self.folders(vmid).into_iter().filter_map(|(_, folder)| fs::read_to_string(folder.join(file)).ok());
        said.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }

    /// Where the kernel tells what a VM reads and writes.
    #[must_use]
    pub fn io_file(&self, vmid: &str) -> Option<PathBuf> {
        let file = if self.is_v2() { "io.stat" } else { "blkio.throttle.io_service_bytes" };
        let folders = self.folders(vmid).into_iter();
        folders
            .filter(|(does, _)| does.contains(&"io") || does.contains(&BLKIO))
            .map(|(_, folder)| folder.join(file))
            .next()
    }

    fn is_v2(&self) -> bool {
        matches!(self.tree, Tree::V2(_))
    }

    /// A VM's groups and what each of them bounds.
    fn folders(&self, vmid: &str) -> Vec<(Vec<&'static str>, PathBuf)> {
        let name = format!("vmshare-{}-{vmid}", self.mark);
        match &self.tree {
            Tree::V2(parent) => vec![(vec!["memory", "cpu", "pids", "io"], parent.join(name))],
            Tree::V1(all) => all.iter().map(|(controller, parent)| (vec![*controller], parent.join(&name))).collect(),
            Tree::Nowhere(_) => Vec::new(),
        }
    }
}

/// What is written for a controller: file, value, and whether it is no limit without.
fn settings(controller: &str, v2: bool, limits: Limits) -> Vec<(&'static str, String, bool)> {
    let memory = u64::from(limits.memory_mb) + u64::from(limits.memory_mb) / 8 + QEMU_MB;
    let bytes = (memory << 20).to_string();
    // A fifth of a processor beside the guest's: the picture and the disks are worked on by threads of their own.
    let quota = u64::from(limits.cpus) * PERIOD + PERIOD / 5;
    match (controller, v2) {
        ("memory", true) => vec![("memory.max", bytes, true), ("memory.swap.max", "0".into(), false)],
        ("memory", false) => vec![("memory.limit_in_bytes", bytes, true)],
        ("cpu", true) => vec![("cpu.max", format!("{quota} {PERIOD}"), true)],
        ("cpu", false) => {
            vec![("cpu.cfs_period_us", PERIOD.to_string(), true), ("cpu.cfs_quota_us", quota.to_string(), true)]
        }
        ("pids", _) => vec![("pids.max", (THREADS + u64::from(limits.cpus)).to_string(), true)],
        // The first is the cost model's, the second BFQ's: a disk is divided by one of them, or by neither.
        ("io", true) => {
            ["io.weight", "io.bfq.weight"].map(|file| (file, format!("default {DISK_WEIGHT}"), false)).to_vec()
        }
        (BLKIO, false) => vec![("blkio.bfq.weight", DISK_WEIGHT.to_string(), false)],
        _ => Vec::new(),
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Mount points of a kind of file system, with their options.
fn mounts_of<'a>(mounts: &'a str, kind: &'a str) -> impl Iterator<Item = (PathBuf, Vec<&'a str>)> {
    mounts.lines().filter_map(move |line| {
        let mut fields = line.split(' ');
        let (_, place, of) = (fields.next()?, fields.next()?, fields.next()?);
        (of == kind).then(|| (PathBuf::from(place), fields.next().unwrap_or("").split(',').collect()))
    })
}

/// The server's own group.
fn version_2(own: &str, mounts: &str) -> Result<PathBuf, String> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("no version 2 here")?;
    let (mount, _) = mounts_of(mounts, "cgroup2").next().ok_or("version 2 is not mounted")?;
    if path.ends_with(".service") {
        return Err(
            "the group of a systemd service cannot hold VMs: set vm_cgroup to that of vmshare-vms.service".into()
        );
    }
    let own = mount.join(path);
    // Where a former server has put us into the leaf already.
    Ok(if own.ends_with(LEAF) { own.parent().map(Path::to_owned).unwrap_or_default() } else { own })
}

/// The controllers that groups below this one of version 2 may have.
fn offers(parent: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(parent.join("cgroup.controllers"))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// That this group can be divided by us.
fn usable(parent: PathBuf) -> Result<PathBuf, String> {
    let offered = offers(&parent).map_err(|e| format!("{}: {e}", parent.display()))?;
    let missing: Vec<_> = CONTROLLERS.into_iter().filter(|wanted| !offered.iter().any(|c| c == wanted)).collect();
    if !missing.is_empty() {
        return Err(format!("{} does not offer {}", parent.display(), missing.join(", ")));
    }
    let writable = OpenOptions::new().write(true).open(parent.join("cgroup.subtree_control"));
    writable.map_err(|e| format!("{} is not delegated to this process ({e})", parent.display()))?;
    Ok(parent)
}

/// The groups of version 1 below which those of VMs go: all or none.
fn version_1(own: &str, mounts: &str, mark: &str) -> Result<Vec<(&'static str, PathBuf)>, String> {
    let of = |controller: &'static str| -> Result<(&'static str, PathBuf), String> {
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            fields.next()?.split(',').any(|c| c == controller).then(|| fields.next())?
        });
        let path = path.ok_or_else(|| format!("no {controller}"))?;
        let mut there = mounts_of(mounts, "cgroup").filter(|(_, options)| options.contains(&controller));
        let (mount, _) = there.next().ok_or_else(|| format!("{controller} is not mounted"))?;
        let parent = mount.join(path.trim_start_matches('/'));
        let probe = parent.join(format!("vmshare-{mark}-probe"));
        make(&probe).map_err(|e| format!("{}: {e}", parent.display()))?;
        let _ = fs::remove_dir(&probe);
        Ok((controller, parent))
    };
    let mut all: Vec<_> = CONTROLLERS.into_iter().map(of).collect::<Result<_, _>>()?;
    all.extend(of(BLKIO));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory_mb: 2048, cpus: 2 };

    /// Where the kernel would have put files, there are plain ones.
    fn tree_2(delegated: bool, is_given: bool) -> (tempfile::TempDir, Groups) {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("lxc/vmshare");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        fs::write(own.join("cgroup.procs"), "4711\n").unwrap();
        if delegated {
            fs::write(own.join("cgroup.subtree_control"), "").unwrap();
        }
        let mounts = format!("cgroup2 {} cgroup2 rw,nosuid 0 0\n", folder.path().display());
        let given = is_given.then_some(own.as_path());
        let groups = Groups::of(Path::new("/srv/vm"), given, "0::/lxc/vmshare\n", &mounts);
        (folder, groups)
    }

    #[test]
    fn under_version_2_the_server_moves_into_a_leaf_and_vms_are_its_neighbours() {
        let (folder, mut groups) = tree_2(true, false);
        assert_eq!(groups.missing(), None);
        groups.enter().unwrap();
        let own = folder.path().join("lxc/vmshare");
        assert_eq!(fs::read_to_string(own.join("server/cgroup.procs")).unwrap(), "0", "only the server moves");
        assert_eq!(fs::read_to_string(own.join("server/cpu.weight")).unwrap(), "1000");
        assert_eq!(groups.make("0a1b2c3d4e5f", LIMITS).unwrap().len(), 1);
        let group = own.join(format!("vmshare-{}-0a1b2c3d4e5f", groups.mark));
        let said = |file: &str| fs::read_to_string(group.join(file)).unwrap();
        assert_eq!(said("memory.max"), ((2048_u64 + 256 + 256) << 20).to_string());
        assert_eq!((said("cpu.max").as_str(), said("pids.max").as_str()), ("220000 100000", "162"));
        assert_eq!((said("io.weight").as_str(), said("memory.swap.max").as_str()), ("default 50", "0"));
        assert_eq!(said("io.bfq.weight"), "default 50");
        assert_eq!(groups.place(), Ok(own.as_path()));
        assert_eq!(groups.io_file("0a1b2c3d4e5f"), Some(group.join("io.stat")));
        fs::write(group.join("memory.events"), "low 0\noom 1\noom_kill 0\n").unwrap();
        assert!(!groups.was_short_of_memory("0a1b2c3d4e5f"));
        fs::write(group.join("memory.events"), "low 0\noom 1\noom_kill 1\n").unwrap();
        assert!(groups.was_short_of_memory("0a1b2c3d4e5f"));
    }

    #[test]
    fn in_a_group_that_was_made_for_vms_its_holder_moves_aside() {
        let (folder, mut groups) = tree_2(true, true);
        groups.enter().unwrap();
        let leaf = folder.path().join("lxc/vmshare/server");
        assert_eq!(fs::read_to_string(leaf.join("cgroup.procs")).unwrap(), "4711");
    }

    #[test]
    fn a_server_that_is_in_the_leaf_already_stays_there() {
        let (folder, _) = tree_2(true, true);
        let mounts = format!("cgroup2 {} cgroup2 rw 0 0\n", folder.path().display());
        let found = version_2("0::/lxc/vmshare/server\n", &mounts).unwrap();
        assert_eq!(found, folder.path().join("lxc/vmshare"));
    }

    #[test]
    fn a_group_that_is_not_ours_to_divide_is_left_alone_and_said() {
        let (_folder, groups) = tree_2(false, false);
        let why = groups.missing().unwrap();
        assert!(why.contains("is not delegated") && why.contains("lxc/vmshare"), "{why}");
        assert!(groups.make("0a1b2c3d4e5f", LIMITS).unwrap().is_empty());
        let service = version_2("0::/system.slice/vmshare.service\n", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert!(service.unwrap_err().contains("vmshare-vms.service"));
        let without = Groups::of(Path::new("/srv"), None, "", "");
        assert!(without.missing().unwrap().contains("no version 2"), "{without:?}");
        assert_eq!(without.io_file("0a1b2c3d4e5f"), None);
    }

    #[test]
    fn under_version_1_each_controller_has_a_group_and_a_sweep_takes_only_our_own() {
        let folder = tempfile::tempdir().unwrap();
        let (mut own, mut mounts) = (String::new(), String::new());
        for (n, controllers) in ["memory", "cpu,cpuacct", "pids", "blkio"].iter().enumerate() {
            fs::create_dir_all(folder.path().join(controllers).join("here")).unwrap();
            own.push_str(&format!("{n}:{controllers}:/here\n"));
            let place = folder.path().join(controllers);
            mounts.push_str(&format!("cgroup {} cgroup rw,{controllers} 0 0\n", place.display()));
        }
        let groups = Groups::of(Path::new("/srv/vm"), None, &own, &mounts);
        assert_eq!(groups.missing(), None);
        assert_eq!(groups.make("0a1b2c3d4e5f", LIMITS).unwrap().len(), 4);
        let name = format!("vmshare-{}-0a1b2c3d4e5f", groups.mark);
        let counts = folder.path().join("blkio/here").join(&name).join("blkio.throttle.io_service_bytes");
        assert_eq!(groups.io_file("0a1b2c3d4e5f"), Some(counts));
        let weight = folder.path().join("blkio/here").join(&name).join("blkio.bfq.weight");
        assert_eq!(fs::read_to_string(weight).unwrap(), "50");
        let quota = folder.path().join("cpu,cpuacct/here").join(&name).join("cpu.cfs_quota_us");
        assert_eq!(fs::read_to_string(quota).unwrap(), "220000");
        let memory = folder.path().join("memory/here");
        let other = memory.join("vmshare-00000000-0a1b2c3d4e5f");
        let (gone, kept) =
            (memory.join(format!("vmshare-{}-1", groups.mark)), memory.join(format!("vmshare-{}-2", groups.mark)));
        [&other, &gone, &kept].iter().for_each(|path| fs::create_dir(path).unwrap());
        groups.sweep(&HashSet::from(["2".to_owned(), "0a1b2c3d4e5f".to_owned()]));
        assert!(other.exists() && kept.exists() && !gone.exists());
    }
}
