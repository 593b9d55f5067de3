//! Tests of `probe` on a made-up host.

use super::*;
use std::fs;
use std::time::Duration;

/// A host with so many QEMUs, each of which used so many ticks and read so many bytes.
pub(crate) fn write_host(root: &Path, vms: u32, busy: u64, ticks: u64, bytes: u64) {
    let write = |name: String, text: String| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        fs::write(path, text).expect("file");
    };
    write("stat".into(), format!("cpu  {busy} 0 0 1000 0 0 0 0 0 0\ncpu0 {busy} 0 0 1000 0\nbtime 1763892663\n"));
    write("meminfo".into(), "MemTotal: 1000 kB\nMemAvailable: 100 kB\nSwapTotal: 8 kB\nSwapFree: 4 kB\n".into());
    write("loadavg".into(), "1.50 1.00 0.50 1/5 77\n".into());
    write("net/dev".into(), format!("  eth0:{bytes} 2 0 0 0 0 0 0 {bytes} 3 0 0 0 0 0 0\n"));
    write("pressure/cpu".into(), "some avg10=2.50 avg60=1.00 avg300=0.00 total=12345\n".into());
    for pid in 1000..1000 + vms {
        let line = format!("{pid} (qemu-system-x86) S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 7 0 {pid} 9 256 0 0\n");
        write(format!("{pid}/stat"), line);
        write(format!("{pid}/io"), format!("rchar: 1\nread_bytes: {bytes}\nwrite_bytes: 0\n"));
    }
}

pub(crate) fn watched(vms: u32) -> BTreeMap<u32, Watched> {
    (1000..1000 + vms)
        .map(|pid| {
            let vm = Watched {
                pid,
                start: u64::from(pid),
                vmid: format!("{pid:012x}"),
                user: format!("user{pid}"),
                io: None,
            };
            (pid, vm)
        })
        .collect()
}

#[test]
fn counters_become_rates_between_two_looks() {
    let folder = tempfile::tempdir().expect("folder");
    let mut vms = watched(2);
    let mut probe = Probe::new(folder.path(), vec!["/tmp".into(), "/nonexistent".into()]);
    let began = Instant::now();
    write_host(folder.path(), 2, 500, 100, 1000);
    let first = probe.sample(&mut vms, began);
    assert_eq!((first.cpu_percent, first.network.rx, first.vms[0].cpu_percent), (None, 0.0, None), "no rates yet");
    let hertz = process::ticks_per_second();
    write_host(folder.path(), 2, 1500, 100 + 3 * hertz, 11_000);
    let second = probe.sample(&mut vms, began + Duration::from_secs(2));
    assert_eq!((second.cpu_percent, second.cpus), (Some(100.0), 1));
    assert_eq!((second.memory_percent(), second.load[0]), (90.0, 1.5));
    assert_eq!((second.pressure.cpu, second.pressure.io), (Some(2.5), None));
    assert_eq!((second.network.rx, second.network.tx), (5000.0, 5000.0));
    let vm = &second.vms[1];
    assert_eq!((vm.cpu_percent.map(f64::round), vm.threads), (Some(150.0), 7));
    assert_eq!((vm.read_bps, vm.write_bps), (Some(5000.0), Some(0.0)));
    assert_eq!((vm.rss, &*vm.user), (256 * process::page_bytes(), "user1001"));
    assert_eq!(second.volumes.len(), 1, "a folder that is not there has no volume");
    assert!(second.volumes[0].percent > 0.0 && second.volumes[0].total > 0, "{:?}", second.volumes);
}

#[test]
fn a_qemu_that_is_gone_or_whose_number_went_to_another_is_forgotten() {
    let folder = tempfile::tempdir().expect("folder");
    let mut vms = watched(3);
    write_host(folder.path(), 3, 500, 100, 1000);
    fs::remove_dir_all(folder.path().join("1000")).expect("remove");
    vms.get_mut(&1001).expect("watched").start = 5;
    let mut probe = Probe::new(folder.path(), Vec::new());
    let sample = probe.sample(&mut vms, Instant::now());
    assert_eq!(sample.vms.iter().map(|vm| vm.pid).collect::<Vec<_>>(), [1002]);
    assert_eq!(vms.len(), 1);
}

#[test]
fn what_a_qemu_reads_and_writes_is_told_by_its_group_by_its_process_or_not_at_all() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut vms, began, group) = (watched(3), Instant::now(), folder.path().join("io.stat"));
    for (pid, path) in [(1000, &group), (1001, &folder.path().join("no.stat"))] {
        vms.get_mut(&pid).expect("watched").io = Some(path.clone());
    }
    let mut probe = Probe::new(folder.path(), Vec::new());
    let mut look = |read: u64, at| {
        write_host(folder.path(), 3, 500, 0, read);
        fs::write(&group, format!("8:0 rbytes={} wbytes={} rios=1 wios=1\n", read * 2, read * 3)).expect("file");
        // Another user's.
        fs::remove_file(folder.path().join("1002/io")).expect("remove");
        let vms = probe.sample(&mut vms, began + Duration::from_secs(at)).vms;
        vms.iter().map(|vm| vm.read_bps.zip(vm.write_bps)).collect::<Vec<_>>()
    };
    assert_eq!(look(1000, 0), [None, None, None]);
    assert_eq!(look(2000, 1), [Some((2000.0, 3000.0)), Some((1000.0, 0.0)), None]);
}

#[test]
fn a_qemu_that_cannot_be_read_for_once_is_kept_and_its_rate_is_over_all_of_the_time() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut vms, began) = (watched(1), Instant::now());
    let mut probe = Probe::new(folder.path(), Vec::new());
    write_host(folder.path(), 1, 500, 100, 1000);
    drop(probe.sample(&mut vms, began));
    // As unreadable as a file is when no descriptor is left, and to root too.
    let stat = folder.path().join("1000/stat");
    fs::remove_file(&stat).and_then(|()| fs::create_dir(&stat)).expect("a folder");
    let unread = probe.sample(&mut vms, began + Duration::from_secs(1));
    assert_eq!((vms.len(), unread.vms.len()), (1, 1));
    let vm = &unread.vms[0];
    assert_eq!((vm.cpu_percent, vm.read_bps, vm.rss), (None, None, 256 * process::page_bytes()));
    fs::remove_dir(&stat).expect("remove");
    write_host(folder.path(), 1, 500, 100 + process::ticks_per_second(), 1000);
    let again = probe.sample(&mut vms, began + Duration::from_secs(2));
    assert_eq!(again.vms[0].cpu_percent.map(f64::round), Some(50.0));
}

#[test]
fn the_busiest_are_told_by_processor_time_and_by_memory() {
    let folder = tempfile::tempdir().expect("folder");
    let began = Instant::now();
    let mut probe = Probe::new(folder.path(), Vec::new());
    write_host(folder.path(), 7, 500, 0, 0);
    assert_eq!(probe.offenders(began).0, [], "the first look knows no rates");
    write_host(folder.path(), 2, 500, process::ticks_per_second(), 0);
    let (cpu, memory) = probe.offenders(began + Duration::from_secs(1));
    assert_eq!(cpu.iter().map(|one| (one.pid, one.cpu_percent)).collect::<Vec<_>>(), [(1000, 100.0), (1001, 100.0)]);
    assert_eq!(memory.len(), OFFENDERS);
    assert_eq!(cpu[0].name, "qemu-system-x86");
}

#[test]
fn this_host_can_be_sampled() {
    let mut probe = Probe::new(Path::new("/proc"), vec!["/".into()]);
    let sample = probe.sample(&mut BTreeMap::new(), Instant::now());
    assert_eq!(sample.cpu_percent, None, "one look has nothing to compare with");
    assert!(sample.memory.total > 0 && sample.cpus > 0 && !sample.volumes.is_empty(), "{sample:?}");
    let own = sample.own.expect("this process");
    assert!(own.rss > 0 && own.fds > 2 && own.threads > 0 && own.started > 1e9, "{own:?}");
}
