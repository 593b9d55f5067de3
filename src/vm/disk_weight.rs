//! Whether the kernel divides a disk's time by the weights that VMs' control groups have.
//!
//! It takes the weights from everybody and then goes by them in two cases only: the disk's scheduler is BFQ (`io.bfq.weight`), or the
//! cost model is turned on for it (`io.weight`, `io.cost.qos`). Debian does neither, so this is looked at and said. Changes
//! nothing: both cost speed, and which is worth it is the operator's to say.
//!
//! Sources: the kernel's cgroup-v2.rst ("IO Interface Files"), bfq-iosched.rst, and Documentation/ABI/stable/sysfs-block.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Disks upon disks (LVM upon RAID upon partitions) are followed that far.
const DEEP: u32 = 8;

/// The disks below `folder`, or what there is of it, that are divided by no weights, by name; none where it lies on no disk we can see.
#[must_use]
pub fn undivided(folder: &Path) -> Vec<String> {
    let there = folder.ancestors().find_map(|folder| fs::metadata(folder).ok());
    let number = there.map_or(0, |about| about.dev());
    let qos = fs::read_to_string("/sys/fs/cgroup/io.cost.qos").unwrap_or_default();
    undivided_of(Path::new("/sys"), libc::major(number), libc::minor(number), &qos)
}

fn undivided_of(sys: &Path, major: u32, minor: u32, qos: &str) -> Vec<String> {
    let mut disks = Vec::new();
    below(&sys.join(format!("dev/block/{major}:{minor}")), DEEP, &mut disks);
    disks.retain(|disk| !is_divided(disk, qos));
    let name = |disk: &PathBuf| disk.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = disks.iter().filter_map(name).collect();
    names.sort();
    names.dedup();
    names
}

/// What a block device lies on in the end.
fn below(device: &Path, deep: u32, disks: &mut Vec<PathBuf>) {
    let Ok(mut device) = device.canonicalize() else { return };
    if device.join("partition").exists() {
        device.pop();
    }
    let parts: Vec<PathBuf> =
        fs::read_dir(device.join("slaves")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    match deep.checked_sub(1) {
        Some(deep) if !parts.is_empty() => parts.iter().for_each(|part| below(part, deep, disks)),
        _ => disks.push(device),
    }
}

fn is_divided(disk: &Path, qos: &str) -> bool {
    let read = |file: &str| fs::read_to_string(disk.join(file)).unwrap_or_default();
    let number = read("dev");
    let costs = qos.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(number.trim()) && words.any(|word| word == "enable=1")
    });
    costs || read("queue/scheduler").contains("[bfq]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A whole disk; where it is a part of another, its folder is in that one's.
    fn device(sys: &Path, path: &str, number: &str, scheduler: &str) -> PathBuf {
        let folder = sys.join("devices").join(path);
        fs::create_dir_all(folder.join("queue")).unwrap();
        fs::create_dir_all(sys.join("dev/block")).unwrap();
        fs::write(folder.join("dev"), format!("{number}\n")).unwrap();
        fs::write(folder.join("queue/scheduler"), scheduler).unwrap();
        symlink(&folder, sys.join("dev/block").join(number)).unwrap();
        folder
    }

    #[test]
    fn a_disk_is_divided_by_weights_when_its_scheduler_is_bfq_or_its_costs_are_counted() {
        let sys = tempfile::tempdir().unwrap();
        device(sys.path(), "vda", "254:0", "[none] mq-deadline bfq\n");
        device(sys.path(), "vdb", "254:16", "none mq-deadline [bfq]\n");
        let of = |minor, qos| undivided_of(sys.path(), 254, minor, qos);
        assert_eq!(of(0, ""), ["vda"]);
        assert_eq!(of(16, ""), [""; 0]);
        assert_eq!(of(0, "254:16 enable=1 ctrl=auto\n254:0 enable=0 ctrl=auto\n"), ["vda"]);
        assert_eq!(of(0, "254:0 enable=1 ctrl=auto rpct=0.00\n"), [""; 0]);
    }

    #[test]
    fn what_a_folder_lies_on_is_followed_to_the_disks() {
        let sys = tempfile::tempdir().unwrap();
        let (a, b) = (
            device(sys.path(), "sda", "8:0", "[mq-deadline] bfq"),
            device(sys.path(), "sdb", "8:16", "mq-deadline [bfq]"),
        );
        let part = device(sys.path(), "sda/sda2", "8:2", "");
        fs::write(part.join("partition"), "2\n").unwrap();
        let raid = device(sys.path(), "dm-0", "253:0", "");
        fs::create_dir(raid.join("slaves")).unwrap();
        symlink(&part, raid.join("slaves/sda2")).unwrap();
        symlink(&b, raid.join("slaves/sdb")).unwrap();
        assert_eq!(undivided_of(sys.path(), 8, 2, ""), ["sda"]);
        assert_eq!(undivided_of(sys.path(), 253, 0, ""), ["sda"]);
        fs::write(a.join("queue/scheduler"), "mq-deadline [bfq]\n").unwrap();
        assert_eq!(undivided_of(sys.path(), 253, 0, ""), [""; 0]);
        // A file system without a disk of its own (btrfs, tmpfs) says nothing.
        assert_eq!(undivided_of(sys.path(), 0, 37, ""), [""; 0]);
    }
}
