#![no_main]
//! Files of /proc: nothing panics, shares are shares, and what is counted is not more than there is.
use libfuzzer_sys::fuzz_target;
use vmshare::proto::procfs;

fuzz_target!(|data: &[u8]| {
    // Two looks at the same file, as the sampler has them.
    let (before, after) = data.split_at(data.len() / 2);
    if let (Some(before), Some(after)) = (procfs::cpu(before), procfs::cpu(after))
        && let Some(percent) = after.percent_since(&before)
    {
        assert!((0.0..=100.0).contains(&percent), "{percent}");
    }
    if let Some(memory) = procfs::memory(data) {
        assert!(memory.available <= memory.total && memory.swap_free <= memory.swap_total);
    }
    if let Some(loads) = procfs::load(data) {
        assert!(loads.iter().all(|load| load.is_finite() && *load >= 0.0));
    }
    if let Some(percent) = procfs::pressure(data) {
        assert!((0.0..=100.0).contains(&percent), "{percent}");
    }
    if let Some(process) = procfs::process(data) {
        // Written as a kernel would, it is read the same.
        let line = format!(
            "1 ({}) {} 0 0 0 0 0 0 0 0 0 0 {} 0 0 0 0 0 {} 0 {} 0 {}",
            process.name,
            if process.is_dead { "Z" } else { "S" },
            process.ticks,
            process.threads,
            process.start,
            process.pages
        );
        assert_eq!(procfs::process(line.as_bytes()), Some(process));
    }
    let _ = (procfs::network(data, |name| name.len() > 3), procfs::group_io(data), procfs::io(data));
    let _ = (procfs::open_files_limit(data), procfs::boot_time(data));
});
