//! Whether the host has room for another VM: memory, processors, disk. Looked at on a `disk` thread before anything is made.
//!
//! Memory is the host's `MemAvailable` less what is promised and not yet used: launches under way, and VMs that are too young to have
//! touched what they were given. What older VMs have not touched may be given again; a teacher who does not want that lowers the number of
//! ports. A host whose numbers cannot be read has room: the kernel still decides. While an alert says that the host is overloaded
//! ([`super::host`]) there is none.

use super::launch::Wish;
use crate::house::House;
use crate::proto::problem::Problem;
use crate::proto::procfs;
use crate::sys::{process, statvfs};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How long a guest takes to touch the memory it works with.
const YOUNG: Duration = Duration::from_secs(120);
/// When to look again: VMs end, guests settle.
const RETRY_SECONDS: u64 = 30;

/// What the host has now; `None` could not be read.
#[derive(Debug, Clone, Copy, Default)]
struct Host {
    memory_mb: Option<u64>,
    /// Of that, promised and not yet used.
    promised_mb: u64,
    load: Option<f64>,
    cpus: u32,
    disk_mb: Option<u64>,
}

/// What launches leave free; see the configuration's `[limits]`.
#[derive(Debug, Clone, Copy)]
struct Reserve {
    memory_mb: u64,
    disk_mb: u64,
    load_per_cpu: u32,
}

/// Memory that a launch was promised; dropping it gives it back.
pub struct Promise {
    total: Rc<Cell<u64>>,
    mb: u64,
}

impl Promise {
    fn new(total: &Rc<Cell<u64>>, mb: u64) -> Self {
        total.set(total.get() + mb);
        Self { total: Rc::clone(total), mb }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.total.set(self.total.get() - self.mb);
    }
}

/// Takes room for a launch.
///
/// # Errors
/// 503 with what is missing and when to come back; 507 when it is disk space.
pub async fn take(cx: &House, wish: &Wish) -> Result<Promise, Problem> {
    if let Some(why) = cx.host.pause() {
        let detail = format!("{why} Try again in a moment.");
        return Err(Problem::unavailable("launches_paused", detail, RETRY_SECONDS));
    }
    let limits = &cx.config.limits;
    let reserve = Reserve {
        memory_mb: limits.memory_reserve_mb,
        disk_mb: limits.disk_reserve_mb,
        load_per_cpu: limits.load_per_cpu,
    };
    let needs = u64::from(wish.memory_mb) + limits.guest_overhead_mb;
    let total = cx.launches.promised();
    let before = total.get();
    let promise = Promise::new(&total, needs);
    let young: Vec<(u32, u64)> = cx
        .vms
        .all()
        .iter()
        .filter(|vm| cx.now().saturating_duration_since(vm.since) < YOUNG)
        .map(|vm| (vm.process.borrow().pid, u64::from(vm.row.borrow().memory_mb) + limits.guest_overhead_mb))
        .collect();
    let base = cx.config.base_dir.clone();
    let host = cx.disk(move || look(&base, before, &young)).await?;
    refusal(&host, needs, reserve).map_or(Ok(promise), Err)
}

/// Reads what there is. Blocks.
fn look(base: &Path, launching_mb: u64, young: &[(u32, u64)]) -> Host {
    let untouched = young.iter().map(|(pid, given)| {
        let process = procfs::process(&read(&format!("/proc/{pid}/stat")));
        given.saturating_sub(process.map_or(0, |process| process.pages.saturating_mul(process::page_bytes()) >> 20))
    });
    let promised_mb = launching_mb + untouched.sum::<u64>();
    Host {
        memory_mb: free_memory().map(|bytes| bytes >> 20),
        promised_mb,
        load: procfs::load(&read("/proc/loadavg")).map(|[load, ..]| load),
        cpus: procfs::cpu(&read("/proc/stat")).map_or(1, |cpu| cpu.count.max(1)),
        disk_mb: statvfs::free_bytes(base).ok().map(|bytes| bytes / 1_048_576),
    }
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

/// Memory in bytes that can be used without taking it from others. Blocks.
pub(super) fn free_memory() -> Option<u64> {
    procfs::memory(&read("/proc/meminfo")).map(|memory| memory.available)
}

/// Why a launch that needs so much memory cannot be.
fn refusal(host: &Host, needs_mb: u64, reserve: Reserve) -> Option<Problem> {
    let full = |what: String| {
        let detail = format!("{what} Try again when somebody has stopped a VM.");
        Some(Problem::unavailable("host_full", detail, RETRY_SECONDS))
    };
    let free = host.memory_mb.map(|mb| mb.saturating_sub(host.promised_mb).saturating_sub(reserve.memory_mb));
    if let Some(free) = free.filter(|free| *free < needs_mb) {
        return full(format!(
            "The server has {free} MB of memory left for VMs, and this one needs {needs_mb} MB. Choose less memory, or wait."
        ));
    }
    let most = f64::from(reserve.load_per_cpu) * f64::from(host.cpus);
    if let Some(load) = host.load.filter(|load| most > 0.0 && *load > most) {
        return full(format!("The server's processors are busy (load {load:.0} on {} of them).", host.cpus));
    }
    if let Some(free) = host.disk_mb.filter(|free| *free < reserve.disk_mb) {
        let detail = format!("The server has only {free} MB of disk space left. Tell the operator.");
        return Some(Problem::new(507, "no_space", detail).with("retry-after", RETRY_SECONDS.to_string()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_and_not_yet_used_is_not_given_twice() {
        let own = std::process::id();
        let host = look(Path::new("/"), 100, &[(own, 1_000_000), (u32::MAX, 50)]);
        assert!(host.memory_mb > Some(0) && host.disk_mb.is_some() && host.load.is_some(), "{host:?}");
        // This process uses some of its million MB; one that is gone uses nothing of its 50.
        assert!(host.promised_mb < 1_000_150 && host.promised_mb > 900_000, "{host:?}");
    }

    #[test]
    fn a_launch_that_does_not_fit_is_told_what_is_missing() {
        let reserve = Reserve { memory_mb: 200, disk_mb: 500, load_per_cpu: 4 };
        let roomy = Host { memory_mb: Some(4000), promised_mb: 0, load: Some(1.0), cpus: 2, disk_mb: Some(9000) };
        let word = |host: Host| refusal(&host, 1000, reserve).map(|problem| (problem.status, problem.code));
        assert_eq!(word(roomy), None);
        assert_eq!(word(Host::default()), None, "what cannot be read refuses nothing");
        assert_eq!(word(Host { memory_mb: Some(1199), ..roomy }), Some((503, "host_full")));
        assert_eq!(word(Host { memory_mb: Some(1200), ..roomy }), None);
        assert_eq!(word(Host { promised_mb: 2801, ..roomy }), Some((503, "host_full")));
        assert_eq!(word(Host { load: Some(8.1), ..roomy }), Some((503, "host_full")));
        assert_eq!(word(Host { disk_mb: Some(499), ..roomy }), Some((507, "no_space")));
        let told = refusal(&Host { memory_mb: Some(700), ..roomy }, 1000, reserve).unwrap();
        assert!(told.detail.contains("500 MB") && told.detail.contains("1000 MB"), "{}", told.detail);
        assert!(told.headers.iter().any(|(name, _)| *name == "retry-after"));
        let unlimited = Reserve { load_per_cpu: 0, ..reserve };
        assert_eq!(refusal(&Host { load: Some(99.0), ..roomy }, 1000, unlimited), None);
    }

    #[test]
    fn a_promise_that_is_dropped_is_given_back() {
        let total = Rc::new(Cell::new(0));
        let first = Promise::new(&total, 300);
        drop(Promise::new(&total, 200));
        assert_eq!(total.get(), 300);
        drop(first);
        assert_eq!(total.get(), 0);
    }
}
