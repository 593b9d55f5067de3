//! What watching costs: one sample of a host with 300 VMs, on a made-up /proc and on the real one. `cargo bench --bench sampler`.
//!
//! Nothing is asserted on seconds: the share of a processor is printed beside its target.
#![allow(missing_docs, clippy::cast_precision_loss)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use vmshare::config::{Config, Overrides};
use vmshare::sampler::probe::Probe;
use vmshare::sampler::{Sampler, Watched};

const VMS: u32 = 300;
const SAMPLES: u32 = 400;
/// Seconds between two samples unless the settings say otherwise.
const INTERVAL: f64 = 5.0;

/// Samples of the whole, a second each.
const WHOLE: u32 = 20;

/// Processor time of this thread in nanoseconds.
fn cpu_nanos() -> u64 {
    nanos(Path::new("/proc/thread-self/schedstat")).expect("schedstat")
}

fn nanos(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.split(' ').next()?.parse().ok()
}

/// That of all threads which live: one that has ended is missing, and none does while it is measured but the walk's.
fn all_nanos() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("tasks").flatten();
    tasks.filter_map(|task| nanos(&task.path().join("schedstat"))).sum()
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let (mut future, waker) = (std::pin::pin!(future), Waker::from(Arc::new(Unpark(thread::current()))));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park_timeout(Duration::from_secs(60)),
        }
    }
}

/// The thread as the server has it: a sample, the rules with every alert there is, volumes, and a report for who asks.
fn measure_whole(watched: &BTreeMap<u32, Watched>) {
    let folder = tempfile::tempdir().expect("folder");
    let alerts = "[alerts]\nsample_seconds = 1\nvm_cpu_percent = 100\nvm_memory_mb = 1000000\nuser_storage_mb = 1000000\nmemory_percent = 100\n";
    let text = format!("vm_base_dir = {:?}\n{alerts}", folder.path());
    fs::write(folder.path().join("vmshare.toml"), text).expect("settings");
    let (config, _) = Config::load(&Overrides::default(), std::iter::empty(), folder.path()).expect("good settings");
    let sampler = Sampler::start(&config).expect("threads");
    watched.values().for_each(|vm| sampler.add(vm.clone()));
    assert_eq!(wait(sampler.next()).expect("a report").sample.vms.len(), VMS as usize);
    let before = all_nanos();
    for _ in 0..WHOLE {
        assert_eq!(wait(sampler.next()).expect("a report").sample.vms.len(), VMS as usize);
    }
    let millis = (all_nanos() - before) as f64 / f64::from(WHOLE) / 1e6;
    println!(
        "the whole, and its asker {millis:.2} ms of CPU a sample of {VMS} VMs: {:.3} % of a core every {INTERVAL} s (target < 0.5 %)",
        millis / INTERVAL / 10.0
    );
}

fn write_host(root: &Path) {
    let write = |name: String, text: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        fs::write(path, text).expect("file");
    };
    for name in ["stat", "meminfo", "loadavg", "net/dev", "self/stat", "self/limits"] {
        let text = fs::read_to_string(Path::new("/proc").join(name)).expect("a file of /proc");
        write(name.to_owned(), &text);
    }
    fs::create_dir_all(root.join("self/fd")).expect("folder");
    let io = fs::read_to_string("/proc/self/io").expect("io");
    for pid in 1000..1000 + VMS {
        let line = format!(
            "{pid} (qemu-system-x86) S 1 {pid} {pid} 0 -1 4194560 31562 0 12 0 4711 815 0 0 20 0 7 0 {pid} 2147483648 262144 \
             18446744073709551615 1 1 0 0 0 0 268444224 4096 17642 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        );
        write(format!("{pid}/stat"), &line);
        write(format!("{pid}/io"), &io);
    }
}

fn measure(what: &str, root: &Path, watched: &BTreeMap<u32, Watched>) {
    let mut probe = Probe::new(root, vec!["/".into()]);
    let mut kept = watched.clone();
    assert_eq!(probe.sample(&mut kept, Instant::now()).vms.len(), VMS as usize);
    let (began, before) = (Instant::now(), cpu_nanos());
    for _ in 0..SAMPLES {
        assert_eq!(probe.sample(&mut kept, Instant::now()).vms.len(), VMS as usize);
    }
    let millis = (cpu_nanos() - before) as f64 / f64::from(SAMPLES) / 1e6;
    let wall = began.elapsed().as_secs_f64() * 1000.0 / f64::from(SAMPLES);
    println!(
        "{what:24} {millis:.2} ms of CPU ({wall:.2} ms) a sample of {VMS} VMs: {:.3} % of a core every {INTERVAL} s (target < 0.5 %)",
        millis / INTERVAL / 10.0
    );
}

fn main() {
    let folder = tempfile::tempdir().expect("folder");
    write_host(folder.path());
    let watched = |pid: u32, start: u64| {
        (pid, Watched { pid, start, vmid: format!("{pid:012x}"), user: "somebody".into(), io: None })
    };
    let made_up = (1000..1000 + VMS).map(|pid| watched(pid, pid.into())).collect();
    measure("made-up /proc", folder.path(), &made_up);
    let mut children: Vec<Child> =
        (0..VMS).map(|_| Command::new("sleep").arg("600").spawn().expect("a process")).collect();
    let start = |pid| vmshare::sys::process::start_time(pid).expect("proc").expect("it lives");
    let real = children.iter().map(|child| watched(child.id(), start(child.id()))).collect();
    measure("this host's /proc", Path::new("/proc"), &real);
    measure_whole(&real);
    let mut probe = Probe::new(Path::new("/proc"), Vec::new());
    let before = cpu_nanos();
    let (_, by_memory) = probe.offenders(Instant::now());
    let millis = (cpu_nanos() - before) as f64 / 1e6;
    println!(
        "the busiest processes    {millis:.2} ms of CPU, only while something is over its limit; {} told",
        by_memory.len()
    );
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
}
