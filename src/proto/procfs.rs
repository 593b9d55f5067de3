//! What the kernel tells of itself and of processes: the files of `/proc`, read as bytes and given back as numbers.
//!
//! Every parser takes a whole file and answers `None` for what is not there or not as proc(5) says; a value that is missing costs only itself.
//! Numbers are the kernel's: processor time in clock ticks, memory in bytes. What is counted only grows, and may
//! start anew; who takes differences must bear that.
//!
//! Pure. Sources: proc(5), the kernel's Documentation/filesystems/proc.rst, admin-guide/cgroup-v1/blkio-controller.rst, admin-guide/cgroup-v2.rst and accounting/psi.rst.

/// How the names of interfaces begin that carry nothing from or to other hosts, or what another one carries too: those of guests, bridges,
/// bonds and tunnels.
const INNER: [&str; 24] = [
    "lo", "veth", "tap", "tun", "br", "docker", "virbr", "vnet", "ifb", "dummy", "bond", "team", "vlan", "wg",
    "macvtap", "macvlan", "ipvlan", "vmbr", "vxlan", "gre", "sit", "ovs", "cni", "podman",
];

/// Processor time of the whole host, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it; time given to guests is in it once.
    pub total: u64,
    /// Doing nothing, or waiting for a disk.
    pub idle: u64,
    /// How many processors there are.
    pub count: u32,
}

impl Cpu {
    /// How busy the processors were since `before`, in percent of all of them; `None` when no time has passed.
    #[must_use]
    pub fn percent_since(&self, before: &Self) -> Option<f64> {
        let total = self.total.checked_sub(before.total).filter(|ticks| *ticks > 0)?;
        // Idle time may go back a little when a processor is taken off.
        let idle = self.idle.saturating_sub(before.idle).min(total);
        Some(ratio(total - idle, total) * 100.0)
    }
}

/// `part` of `whole`; nothing of nothing is 0.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn text(bytes: &[u8]) -> &str {
    // Names in these files may be no UTF-8; lines before such a name are still good.
    bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

fn numbers(fields: &str) -> impl Iterator<Item = u64> {
    fields.split_ascii_whitespace().map_while(|field| field.parse().ok())
}

/// `/proc/stat`.
#[must_use]
pub fn cpu(stat: &[u8]) -> Option<Cpu> {
    let mut cpu = Cpu::default();
    let mut found = false;
    for line in text(stat).lines() {
        let Some(rest) = line.strip_prefix("cpu") else { continue };
        if rest.starts_with(|c: char| c.is_ascii_digit()) {
            cpu.count = cpu.count.saturating_add(1);
            continue;
        }
        let mut fields = [0_u64; 8];
        // user nice system idle iowait irq softirq steal; what follows (guest, guest_nice) is in user and nice already.
        fields.iter_mut().zip(numbers(rest)).for_each(|(field, number)| *field = number);
        let [user, nice, system, idle, wait, irq, softirq, steal] = fields;
        cpu.idle = idle.saturating_add(wait);
        cpu.total = [user, nice, system, irq, softirq, steal].iter().fold(cpu.idle, |sum, n| sum.saturating_add(*n));
        found = numbers(rest).count() >= 4;
    }
    found.then_some(cpu)
}

/// Memory of the host, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be given out without swapping.
    pub available: u64,
    /// Swap space.
    pub swap_total: u64,
    /// Swap space that is free.
    pub swap_free: u64,
}

/// `/proc/meminfo`; available is there since Linux 3.14.
#[must_use]
pub fn memory(meminfo: &[u8]) -> Option<Memory> {
    let text = text(meminfo);
    let field = |name: &str| kilobytes(text, name);
    let (total, available) = (field("MemTotal:")?, field("MemAvailable:")?);
    let (swap_total, swap_free) = (field("SwapTotal:").unwrap_or(0), field("SwapFree:").unwrap_or(0));
    Some(Memory { total, available: available.min(total), swap_total, swap_free: swap_free.min(swap_total) })
}

/// A line `Name:   1234 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// `/proc/loadavg`: over one, five and fifteen minutes.
#[must_use]
pub fn load(loadavg: &[u8]) -> Option<[f64; 3]> {
    let mut fields = text(loadavg).split_ascii_whitespace().map(|field| field.parse::<f64>().ok());
    let mut next = || fields.next().flatten().filter(|load| load.is_finite() && *load >= 0.0);
    Some([next()?, next()?, next()?])
}

/// `/proc/pressure/{cpu,memory,io}`: the share of the last ten seconds in which some task had to wait, in percent.
#[must_use]
pub fn pressure(file: &[u8]) -> Option<f64> {
    let rest = text(file).lines().find_map(|line| line.strip_prefix("some "))?;
    let value: f64 = rest.split_ascii_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()?;
    (0.0..=100.0).contains(&value).then_some(value)
}

/// Bytes in and out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received, or read.
    pub rx: u64,
    /// Sent, or written.
    pub tx: u64,
}

/// `/proc/net/dev`: what passed to and from other hosts. An interface that `is_device` says is hardware is counted; what is made of others, a
/// bridge or a VLAN, carries what those carry. Where nothing is hardware, as in a container, names decide.
#[must_use]
pub fn network(dev: &[u8], mut is_device: impl FnMut(&str) -> bool) -> Option<Traffic> {
    let (mut hardware, mut named, mut found) = (None, Traffic::default(), false);
    for line in text(dev).lines() {
        let Some((name, rest)) = line.rsplit_once(':') else { continue };
        let (Some(rx), Some(tx)) = (numbers(rest).next(), numbers(rest).nth(8)) else { continue };
        let add = |sum: &mut Traffic| {
            *sum = Traffic { rx: sum.rx.saturating_add(rx), tx: sum.tx.saturating_add(tx) };
        };
        let name = name.trim();
        found = true;
        if is_device(name) {
            add(hardware.get_or_insert_default());
        }
        if !name.contains('.') && !INNER.iter().any(|inner| name.starts_with(inner)) {
            add(&mut named);
        }
    }
    // A host with a loopback alone has a network without traffic.
    hardware.or_else(|| found.then_some(named))
}

/// One process, from its `stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The program's name, cut at 15 bytes by the kernel.
    pub name: String,
    /// It has ended and is not buried.
    pub is_dead: bool,
    /// Processor time in ticks, that of a guest included.
    pub ticks: u64,
    /// Threads.
    pub threads: u64,
    /// When it started, in ticks since boot: with its number, a process for certain.
    pub start: u64,
    /// Memory that is really there, in pages.
    pub pages: u64,
}

/// `/proc/PID/stat`. The name may hold anything, so fields are counted from the last parenthesis.
#[must_use]
pub fn process(stat: &[u8]) -> Option<Process> {
    let open = stat.iter().position(|&b| b == b'(')?;
    let close = stat.iter().rposition(|&b| b == b')')?;
    let name = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // The state is field 3; times are 14 and 15, threads 20, the start 22, pages 24.
    let user: u64 = fields.nth(10)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let threads = fields.nth(4)?.parse().ok()?;
    let start = fields.nth(1)?.parse().ok()?;
    let pages = fields.nth(1)?.parse().ok()?;
    let is_dead = matches!(state, "Z" | "X" | "x");
    Some(Process { name, is_dead, ticks: user.saturating_add(system), threads, start, pages })
}

/// `/proc/PID/io`: bytes that a process had really read from and written to disks. Only its own user may look.
#[must_use]
pub fn io(file: &[u8]) -> Option<Traffic> {
    let text = text(file);
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok();
    Some(Traffic { rx: field("read_bytes:")?, tx: field("write_bytes:")? })
}

/// `io.stat` of a control group of version 2, or `blkio.throttle.io_service_bytes` of version 1: bytes that its processes read from and wrote to
/// disks. A disk that is made of others tells what those tell too, so the most of any counts.
#[must_use]
pub fn group_io(file: &[u8]) -> Option<Traffic> {
    let (text, mut most) = (text(file), Traffic::default());
    for line in text.lines().filter(|line| !line.starts_with("Total ")) {
        let (device, rest) = line.split_once(' ')?;
        device.split_once(':')?;
        let field = |name: &str| rest.split_ascii_whitespace().find_map(|field| field.strip_prefix(name))?.parse().ok();
        let one = |name: &str| rest.strip_prefix(name)?.trim().parse().ok();
        most.rx = most.rx.max(field("rbytes=").or_else(|| one("Read ")).unwrap_or(0));
        most.tx = most.tx.max(field("wbytes=").or_else(|| one("Write ")).unwrap_or(0));
    }
    Some(most)
}

/// `/proc/PID/limits`: how many files it may have open; `None` when there is no bound.
#[must_use]
pub fn open_files_limit(limits: &[u8]) -> Option<u64> {
    let rest = text(limits).lines().find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// `/proc/stat`: when the host started, in seconds since 1970.
#[must_use]
pub fn boot_time(stat: &[u8]) -> Option<u64> {
    text(stat).lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
#[path = "procfs_tests.rs"]
mod tests;
