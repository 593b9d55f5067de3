//! Looks at the host and its QEMUs: `/proc` and statvfs, a few hundred small files at a time, into buffers that are kept.
//!
//! Counters become rates here, by the difference to the look before. A file that is not there, or not ours to read, costs its own value only.
//! The root of `/proc` can be another folder, so that a test has any host it likes.

use super::aside::Volumes;
use super::{Offender, Own, Pressure, Rates, Sample, VmLoad, Volume, Watched};
use crate::proto::procfs::{self, Cpu, Traffic};
use crate::sys::{process, statvfs};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Processes looked at when the busiest ones are wanted.
const PROCESSES: usize = 8192;
/// How many of those are told.
pub const OFFENDERS: usize = 5;
/// Interfaces that are remembered; those of guests come and go.
const LINKS: usize = 4096;
/// The largest file that is read; a host with a thousand processors has a `stat` of 100 KiB.
const FILE_BYTES: usize = 1 << 20;

/// A QEMU as it was when it was last read.
#[derive(Clone, Copy)]
struct Before {
    at: Instant,
    ticks: u64,
    io: Option<Traffic>,
    rss: u64,
    threads: u64,
}

/// See the file's page.
pub struct Probe {
    root: String,
    volumes: Volumes,
    page: u64,
    hertz: f64,
    buffer: Vec<u8>,
    path: String,
    looked: Option<Instant>,
    cpu: Option<Cpu>,
    network: Option<Traffic>,
    /// The kernel's folder of interfaces, and which of them are hardware.
    links_in: PathBuf,
    links: HashMap<String, bool>,
    vms: HashMap<u32, Before>,
    /// Everybody's processor time, while the busiest are wanted.
    everybody: HashMap<u32, u64>,
    everybody_at: Option<Instant>,
}

#[allow(clippy::cast_precision_loss)]
fn float(number: u64) -> f64 {
    number as f64
}

impl Probe {
    /// Looks below `root`, which is `/proc`; `volumes` begin with the one of `VM_BASE_DIR`.
    #[must_use]
    pub fn new(root: &Path, volumes: Vec<PathBuf>) -> Self {
        Self {
            root: root.to_string_lossy().into_owned(),
            volumes: Volumes::new(volumes),
            page: process::page_bytes(),
            hertz: float(process::ticks_per_second()),
            buffer: Vec::with_capacity(8192),
            path: String::new(),
            looked: None,
            cpu: None,
            network: None,
            links_in: root.parent().unwrap_or(root).join("sys/class/net"),
            links: HashMap::new(),
            vms: HashMap::new(),
            everybody: HashMap::new(),
            everybody_at: None,
        }
    }

    /// Volumes that could not be measured so far.
    #[must_use]
    pub fn unmeasured_volumes(&self) -> Vec<&Path> {
        self.volumes.unknown()
    }

    /// Reads a file into the buffer.
    fn read(&mut self, name: std::fmt::Arguments<'_>) -> Option<&[u8]> {
        self.try_read(name).ok()
    }

    fn try_read(&mut self, name: std::fmt::Arguments<'_>) -> io::Result<&[u8]> {
        self.path.clear();
        let _ = write!(self.path, "{}/{name}", self.root);
        self.buffer.clear();
        File::open(&self.path)?.take(FILE_BYTES as u64).read_to_end(&mut self.buffer)?;
        Ok(&self.buffer)
    }

    /// Everything, now. QEMUs that are gone are taken off `watched`.
    pub fn sample(&mut self, watched: &mut BTreeMap<u32, Watched>, now: Instant) -> Sample {
        let elapsed = self.looked.replace(now).map(|before| (now - before).as_secs_f64()).filter(|s| *s > 0.0);
        let mut sample = Sample { at: jiff::Timestamp::now().as_second(), ..Sample::default() };
        if let Some(cpu) = self.read(format_args!("stat")).and_then(procfs::cpu) {
            sample.cpus = cpu.count;
            sample.cpu_percent = self.cpu.and_then(|before| cpu.percent_since(&before));
            self.cpu = Some(cpu);
        }
        sample.memory = self.read(format_args!("meminfo")).and_then(procfs::memory).unwrap_or_default();
        sample.load = self.read(format_args!("loadavg")).and_then(procfs::load).unwrap_or_default();
        let mut pressure = |what: &str| self.read(format_args!("pressure/{what}")).and_then(procfs::pressure);
        sample.pressure = Pressure { cpu: pressure("cpu"), memory: pressure("memory"), io: pressure("io") };
        let network = self.traffic();
        sample.network = rates(&mut self.network, network, elapsed).unwrap_or_default();
        sample.volumes = self.volumes.measure();
        sample.vms = self.vms(watched, now);
        sample.own = self.own();
        sample
    }

    fn traffic(&mut self) -> Option<Traffic> {
        if self.links.len() > LINKS {
            self.links.clear();
        }
        let mut links = std::mem::take(&mut self.links);
        let folder = self.links_in.clone();
        let is_device = |name: &str| match links.get(name) {
            Some(known) => *known,
            None => *links.entry(name.to_owned()).or_insert_with(|| folder.join(name).join("device").exists()),
        };
        let traffic = self.read(format_args!("net/dev")).and_then(|dev| procfs::network(dev, is_device));
        self.links = links;
        traffic
    }

    fn vms(&mut self, watched: &mut BTreeMap<u32, Watched>, now: Instant) -> Vec<VmLoad> {
        let mut loads = Vec::with_capacity(watched.len());
        let mut seen = HashMap::with_capacity(watched.len());
        watched.retain(|pid, vm| {
            let process = match self.try_read(format_args!("{pid}/stat")) {
                Ok(stat) => procfs::process(stat),
                Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => return false,
                // No descriptor is left, or no memory: that says nothing of the process.
                Err(_) => None,
            };
            if process.as_ref().is_some_and(|process| process.is_dead || process.start != vm.start) {
                return false;
            }
            let before = self.vms.get(pid).copied();
            let (load, after) = match process {
                Some(process) => self.vm(vm, &process, before, now),
                None => (load_of(vm, before.as_ref()), before),
            };
            loads.push(load);
            seen.extend(after.map(|after| (*pid, after)));
            true
        });
        self.vms = seen;
        loads
    }

    fn vm(
        &mut self,
        vm: &Watched,
        process: &procfs::Process,
        before: Option<Before>,
        now: Instant,
    ) -> (VmLoad, Option<Before>) {
        // The process's own file is for who may trace it: where QEMU is another user, only its group tells.
        let group = vm.io.as_ref().and_then(|path| std::fs::read(path).ok()).and_then(|file| procfs::group_io(&file));
        let io = group.or_else(|| self.read(format_args!("{}/io", vm.pid)).and_then(procfs::io));
        let rss = process.pages.saturating_mul(self.page);
        let after = Before { at: now, ticks: process.ticks, io, rss, threads: process.threads };
        let mut load = load_of(vm, Some(&after));
        if let Some(mut before) = before {
            let seconds = Some(now.saturating_duration_since(before.at).as_secs_f64()).filter(|s| *s > 0.0);
            let ticks = float(process.ticks.saturating_sub(before.ticks));
            load.cpu_percent = seconds.map(|seconds| ticks / self.hertz / seconds * 100.0);
            if let Some(Rates { rx, tx }) = rates(&mut before.io, io, seconds) {
                (load.read_bps, load.write_bps) = (Some(rx), Some(tx));
            }
        }
        (load, Some(after))
    }

    /// This server itself.
    fn own(&mut self) -> Option<Own> {
        let hertz = self.hertz;
        let boot = self.read(format_args!("stat")).and_then(procfs::boot_time)?;
        let process = self.read(format_args!("self/stat")).and_then(procfs::process)?;
        let max_fds = self.read(format_args!("self/limits")).and_then(procfs::open_files_limit);
        let fds = std::fs::read_dir(format!("{}/self/fd", self.root)).map_or(0, Iterator::count);
        Some(Own {
            cpu_seconds: float(process.ticks) / hertz,
            rss: process.pages.saturating_mul(self.page),
            threads: process.threads,
            fds,
            max_fds,
            started: float(boot) + float(process.start) / hertz,
        })
    }

    /// Looks at every process of the host; those with the most processor time since the last such look, and those with the most memory.
    /// The first look after a pause knows no rates yet.
    pub fn offenders(&mut self, now: Instant) -> (Vec<Offender>, Vec<Offender>) {
        let elapsed = self.everybody_at.replace(now).map(|before| (now - before).as_secs_f64()).filter(|s| *s > 0.0);
        let Ok(entries) = std::fs::read_dir(&self.root) else { return Default::default() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let pids: Vec<u32> = pids.take(PROCESSES).collect();
        let mut ticks = HashMap::with_capacity(pids.len());
        let mut all = Vec::with_capacity(pids.len());
        for pid in pids {
            let Some(process) = self.read(format_args!("{pid}/stat")).and_then(procfs::process) else { continue };
            let since = self.everybody.get(&pid).map(|before| process.ticks.saturating_sub(*before));
            let cpu = elapsed.zip(since).map_or(0.0, |(s, ticks)| float(ticks) / self.hertz / s * 100.0);
            ticks.insert(pid, process.ticks);
            all.push(Offender {
                pid,
                name: process.name,
                cpu_percent: cpu,
                rss: process.pages.saturating_mul(self.page),
            });
        }
        self.everybody = ticks;
        let most = |by: fn(&Offender) -> f64| {
            let mut all = all.clone();
            all.sort_by(|a, b| by(b).total_cmp(&by(a)));
            all.truncate(OFFENDERS);
            all.retain(|one| by(one) > 0.0);
            all
        };
        (most(|one| one.cpu_percent.round()), most(|one| float(one.rss)))
    }

    /// Nobody asks who is busiest any more.
    pub fn forget_offenders(&mut self) {
        self.everybody = HashMap::new();
        self.everybody_at = None;
    }
}

/// What is known of a QEMU without a difference to the look before.
fn load_of(vm: &Watched, last: Option<&Before>) -> VmLoad {
    let (rss, threads) = last.map_or((0, 0), |last| (last.rss, last.threads));
    let (vmid, user, pid) = (vm.vmid.clone(), vm.user.clone(), vm.pid);
    VmLoad { vmid, user, pid, rss, threads, ..VmLoad::default() }
}

/// Bytes a second since the look before, which is replaced.
fn rates(before: &mut Option<Traffic>, now: Option<Traffic>, elapsed: Option<f64>) -> Option<Rates> {
    let then = std::mem::replace(before, now);
    let (then, now, seconds) = (then?, now?, elapsed?);
    let rate = |then: u64, now: u64| float(now.saturating_sub(then)) / seconds;
    Some(Rates { rx: rate(then.rx, now.rx), tx: rate(then.tx, now.tx) })
}

/// A file system's use. Blocks, where its server is gone for ever.
pub(super) fn volume(path: &Path) -> Option<Volume> {
    let space = statvfs::space(path).ok()?;
    Some(Volume {
        path: path.to_owned(),
        total: space.total,
        free: space.free,
        percent: procfs::ratio(space.total.saturating_sub(space.free), space.total) * 100.0,
        inodes_percent: procfs::ratio(space.inodes.saturating_sub(space.inodes_free), space.inodes) * 100.0,
        is_measured: true,
    })
}

#[cfg(test)]
#[path = "probe_tests.rs"]
pub(crate) mod tests;
