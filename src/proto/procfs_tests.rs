//! Tests of `procfs`: files as kernels write them, broken ones, and any bytes at all.

use super::*;
use proptest::prelude::*;

const STAT: &[u8] =
    b"cpu  100 5 50 800 20 3 2 20 10 0\ncpu0 50 2 25 400 10 1 1 10 5 0\ncpu1 50 3 25 400 10 2 1 10 5 0\n\
    intr 5\nbtime 1763892663\nprocesses 9\n";

#[test]
fn processor_time_of_guests_is_counted_once() {
    assert_eq!(cpu(STAT), Some(Cpu { total: 1000, idle: 820, count: 2 }));
    assert_eq!(boot_time(STAT), Some(1_763_892_663));
    for broken in ["", "intr 5\n", "cpu\n", "cpu  x y\n", "cpu  1 2 3\n"] {
        assert_eq!(cpu(broken.as_bytes()), None, "{broken:?}");
    }
}

#[test]
fn use_is_what_was_not_idle_between_two_looks() {
    let before = Cpu { total: 1000, idle: 800, count: 2 };
    let use_of = |total, idle| Cpu { total, idle, count: 2 }.percent_since(&before);
    assert_eq!(use_of(1200, 850), Some(75.0));
    assert_eq!(use_of(1200, 790), Some(100.0), "idle time went back");
    assert_eq!(use_of(1200, 2000), Some(0.0));
    assert_eq!(use_of(1000, 800), None, "no time has passed");
    assert_eq!(use_of(10, 5), None, "the counters began anew");
}

#[test]
fn memory_is_read_in_bytes_and_swap_may_be_none() {
    let file = b"MemTotal:       24684120 kB\nMemFree:        1 kB\nMemAvailable:   2048000 kB\n";
    let memory_of = Memory { total: 24_684_120 << 10, available: 2_048_000 << 10, swap_total: 0, swap_free: 0 };
    assert_eq!(memory(file), Some(memory_of));
    let swap = [file.as_slice(), b"SwapTotal: 8 kB\nSwapFree: 2 kB\n"].concat();
    assert_eq!(memory(&swap), Some(Memory { swap_total: 8192, swap_free: 2048, ..memory_of }));
    for broken in ["", "MemTotal: 5 kB\n", "MemTotal: many kB\nMemAvailable: 1 kB\n", "MemTotal:\nMemAvailable:\n"] {
        assert_eq!(memory(broken.as_bytes()), None, "{broken:?}");
    }
}

#[test]
fn load_and_pressure_are_read() {
    assert_eq!(load(b"0.50 1.25 16.00 3/512 4711\n"), Some([0.5, 1.25, 16.0]));
    assert_eq!(load(b"0.50 1.25\n"), None);
    assert_eq!(load(b"nan inf -1\n"), None);
    let file = b"some avg10=2.50 avg60=1.00 avg300=0.00 total=12345\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=5\n";
    assert_eq!(pressure(file), Some(2.5));
    assert_eq!(pressure(b"some avg60=1.00\n"), None);
    assert_eq!(pressure(b"some avg10=1000\n"), None);
}

/// Lines of `net/dev`, each with so many bytes received.
fn dev(links: &[(&str, u64)]) -> String {
    let lines = links.iter().map(|(name, rx)| format!("{name:>6}: {rx} 2 0 0 0 0 0 0 7 3 0 0 0 0 0 0\n"));
    format!("Inter-|   Receive   |  Transmit\n face |bytes packets|bytes packets\n{}", lines.collect::<String>())
}

#[test]
fn traffic_is_counted_where_it_enters_the_host_and_nowhere_else() {
    // Two cards in a bond, with a VLAN on it, in a bridge that is called as somebody liked, and a guest and a tunnel beside.
    let all = [
        ("lo", 999),
        ("eno1", 1000),
        ("eno2", 5),
        ("bond0", 1005),
        ("bond0.7", 400),
        ("lan", 400),
        ("br0", 5),
        ("vmbr0", 5),
        ("wg0", 90),
        ("macvtap0", 90),
        ("team0", 5),
        ("veth1a2b", 9),
        ("tap3", 9),
    ];
    let file = dev(&all);
    assert_eq!(network(file.as_bytes(), |name| name.starts_with("eno")), Some(Traffic { rx: 1005, tx: 14 }));
    // Nothing is hardware in a container; names are all there is.
    let without: Vec<_> = all.into_iter().filter(|(name, _)| *name != "lan").collect();
    assert_eq!(network(dev(&without).as_bytes(), |_| false), Some(Traffic { rx: 1005, tx: 14 }));
    assert_eq!(network(dev(&[("lo", 999)]).as_bytes(), |_| false), Some(Traffic::default()));
    assert_eq!(network(b"nothing\n", |_| true), None);
}

#[test]
fn what_a_group_reads_and_writes_is_told_by_both_versions() {
    let two = b"254:0 rbytes=4096 wbytes=512 rios=1 wios=1 dbytes=0 dios=0\n253:1 rbytes=4096 wbytes=1024 rios=1 wios=2 dbytes=0 dios=0\n";
    assert_eq!(group_io(two), Some(Traffic { rx: 4096, tx: 1024 }), "a volume on a disk is not counted twice");
    let one =
        b"8:0 Read 8192\n8:0 Write 512\n8:0 Sync 8192\n8:0 Async 512\n8:0 Discard 0\n8:0 Total 8704\nTotal 8704\n";
    assert_eq!(group_io(one), Some(Traffic { rx: 8192, tx: 512 }));
    assert_eq!(group_io(b""), Some(Traffic::default()), "nothing was read or written yet");
    assert_eq!(group_io(b"what\n"), None);
}

#[test]
fn a_process_may_be_called_anything() {
    let line = b"77 (a) S 1 (b) R) S 1 77 77 0 -1 4194560 1 0 0 0 11 4 0 0 20 0 6 0 4711 9 33 18446744073709551615 1\n";
    let wanted = Process { name: "a) S 1 (b) R".into(), is_dead: false, ticks: 15, threads: 6, start: 4711, pages: 33 };
    assert_eq!(process(line), Some(wanted));
    let dead = process(b"77 (x) Z 1 77 77 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 9 0");
    assert!(dead.is_some_and(|process| process.is_dead));
    for broken in [&b"77 (x) S 1 2"[..], b"", b")(", b"77 (x", b"(x) S\xff"] {
        assert_eq!(process(broken), None, "{broken:?}");
    }
}

#[test]
fn bytes_and_bounds_of_a_process_are_read() {
    let file =
        b"rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n";
    assert_eq!(io(file), Some(Traffic { rx: 4096, tx: 8192 }));
    assert_eq!(io(b"read_bytes: 4096\n"), None);
    let limits = b"Limit                     Soft Limit           Hard Limit           Units     \n\
        Max open files            1024                 524288               files     \n";
    assert_eq!(open_files_limit(limits), Some(1024));
    assert_eq!(open_files_limit(b"Max open files            unlimited            unlimited            files\n"), None);
}

#[test]
fn this_host_is_read() {
    let file = |name: &str| std::fs::read(format!("/proc/{name}")).expect("a file of /proc");
    assert!(cpu(&file("stat")).is_some_and(|cpu| cpu.count > 0 && cpu.total >= cpu.idle));
    assert!(memory(&file("meminfo")).is_some_and(|memory| memory.total > 0));
    assert!(load(&file("loadavg")).is_some() && network(&file("net/dev"), |_| false).is_some());
    let own = process(&file("self/stat")).expect("this process");
    assert!(own.threads > 0 && own.pages > 0 && own.start > 0 && !own.is_dead, "{own:?}");
    assert!(io(&file("self/io")).is_some());
    assert!(boot_time(&file("stat")).is_some());
}

proptest! {
    #[test]
    fn nothing_that_is_read_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = (cpu(&bytes), memory(&bytes), load(&bytes), pressure(&bytes), network(&bytes, |_| true));
        let _ = (group_io(&bytes), process(&bytes), io(&bytes), open_files_limit(&bytes), boot_time(&bytes));
    }

    #[test]
    fn what_a_kernel_writes_of_a_process_is_what_is_read(
        name in "[ -~]{1,15}", ticks in any::<[u32; 2]>(), threads in any::<u32>(), start in any::<u64>(), pages in any::<u32>(),
    ) {
        let [user, system] = ticks;
        let line = format!("1 ({name}) R 1 1 1 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 {threads} 0 {start} 9 {pages} 0 0\n");
        let read = process(line.as_bytes());
        let ticks = u64::from(user) + u64::from(system);
        let wanted = Process { name, is_dead: false, ticks, threads: threads.into(), start, pages: pages.into() };
        prop_assert_eq!(read, Some(wanted));
    }

    #[test]
    fn use_is_a_share_whatever_the_counters_say(a in any::<[u64; 2]>(), b in any::<[u64; 2]>()) {
        let of = |[total, idle]: [u64; 2]| Cpu { total, idle, count: 1 };
        if let Some(percent) = of(b).percent_since(&of(a)) {
            prop_assert!((0.0..=100.0).contains(&percent), "{}", percent);
        }
    }

    #[test]
    fn available_memory_is_never_more_than_there_is(total in any::<u32>(), available in any::<u32>()) {
        let file = format!("MemTotal: {total} kB\nMemAvailable: {available} kB\n");
        let memory = memory(file.as_bytes()).expect("both are there");
        prop_assert!(memory.available <= memory.total);
    }
}
