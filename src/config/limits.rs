//! `[limits]` and `[alerts]`: every bound of the program, with its name, default and range, in one place.
//!
//! A number that bounds something is written here and nowhere else; the code that keeps the bound takes it from this
//! struct. Each bound has a defined answer when it is reached (429, 431, 503, a closed connection), told where it is kept.
//! Sizes are bytes, times are seconds unless the name says otherwise; 0 switches a limit off only where the line says so.

use super::table::settings;
use std::collections::BTreeMap;

settings! {
    /// The bounds of the program.
    pub struct Limits in "limits" {
        /// Open connections in all; further ones are closed at once.
        max_connections: usize = "12000", 16..=1_000_000;
        /// Open connections of one address; a class behind one NAT is one address. 0 means no limit.
        connections_per_ip: usize = "4096", 0..=1_000_000;
        /// The largest request line and headers together; 431 above.
        head_bytes: usize = "16384", 1024..=1_048_576;
        /// The time in which a request's headers must be whole.
        header_seconds: u64 = "10", 1..=600;
        /// The largest body of an API request (uploads have their own bound); 413 above.
        body_bytes: usize = "65536", 1024..=16_777_216;
        /// The time in which the body of an API request must be whole.
        body_seconds: u64 = "30", 1..=3600;
        /// How long a connection may wait between two requests.
        idle_seconds: u64 = "75", 1..=86_400;
        /// How long a client may take nothing of what is sent to it.
        write_seconds: u64 = "60", 1..=3600;
        /// The time in which the socket of a VM's screen must accept.
        relay_connect_seconds: u64 = "5", 1..=60;
        /// Sign-ups from one address in a minute; a class of 200 signs up behind one NAT.
        signups_per_minute: u32 = "200", 1..=100_000;
        /// Log-ins from one address in a minute.
        logins_per_minute_ip: u32 = "300", 1..=100_000;
        /// Failed log-ins to one account in 15 minutes.
        login_failures_per_account: u32 = "10", 1..=100_000;
        /// Failed log-ins from one address in 15 minutes.
        login_failures_per_ip: u32 = "100", 1..=100_000;
        /// Session and link tokens from one address in a minute that let nobody in; 0 means no limit.
        bad_tokens_per_minute_ip: u32 = "600", 0..=1_000_000;
        /// Launches by one user in a minute.
        launches_per_minute_user: u32 = "10", 1..=100_000;
        /// Launches from one address in a minute.
        launches_per_minute_ip: u32 = "300", 1..=100_000;
        /// QEMUs that start at the same time; further launches wait their turn.
        concurrent_launches: usize = "8", 1..=1024;
        /// How long a port stays unused after its VM has ended. 0 means not at all.
        port_cooldown_seconds: u64 = "30", 0..=86_400;
        /// The largest scratch disk of a VM, in GiB.
        max_data_disk_gb: u32 = "64", 1..=65_536;
        /// The time in which QEMU must show a screen.
        boot_seconds: u64 = "60", 1..=3600;
        /// How long a launch goes on after the browser that asked for it has left, for a page that is being reloaded.
        launch_grace_seconds: u64 = "10", 0..=600;
        /// How long a guest may take to shut down before its QEMU is ended.
        stop_grace_seconds: u64 = "20", 0..=3600;
        /// How long before a VM's idle or total time is up its user is warned, and the least a VM has after a restart of the server.
        limit_warning_seconds: u64 = "300", 0..=86_400;
        /// Memory of the host that launches leave free, in MB.
        memory_reserve_mb: u64 = "256", 0..=1_073_741_824;
        /// Memory counted for QEMU itself beside its guest's, in MB, when a launch is held against the host's.
        guest_overhead_mb: u64 = "160", 0..=65_536;
        /// Load of the host per CPU above which nothing is launched. 0 means no limit.
        load_per_cpu: u32 = "16", 0..=10_000;
        /// Disk space left alone: VMs do not start and uploads and disks are refused (507) when less would remain, in MB.
        disk_reserve_mb: u64 = "512", 0..=1_073_741_824;
        /// Statements that may wait for the database; 503 above.
        db_queue: usize = "1024", 1..=1_000_000;
        /// How long a request waits for the database before it answers 503.
        db_seconds: u64 = "3", 1..=60;
        /// Jobs that may wait for the disk threads; 503 above.
        disk_queue: usize = "256", 1..=1_000_000;
        /// Passwords that may wait to be hashed; a class of 200 signs in at once. 503 above.
        hash_queue: usize = "512", 1..=100_000;
        /// How long nothing may come of an upload before it is cut off; what came is kept where it can be resumed.
        upload_stall_seconds: u64 = "60", 1..=3600;
        /// Images and unfinished uploads of one user together, in MB; 413 above.
        upload_quota_mb: u64 = "16384", 1..=1_073_741_824;
        /// Uploads one user may have unfinished.
        uploads_per_user: u32 = "8", 1..=1000;
        /// How long an unfinished upload is kept after it was last worked on, in hours.
        upload_expire_hours: u32 = "48", 1..=8760;
        /// Kept disks of one user together, by the size the guest sees, in GiB; 413 above.
        disk_quota_gb: u32 = "128", 1..=1_048_576;
        /// Snapshots of one disk.
        snapshots_per_disk: u32 = "16", 1..=1000;
        /// How long qemu-img may work on a disk.
        disk_job_seconds: u64 = "120", 1..=86_400;
        /// How long the files of what has ended are kept before the janitor removes them, in hours.
        leftover_hours: u32 = "24", 0..=8760;
        /// How long a QEMU that outlived the server may be silent (it is while it writes a snapshot) before it is ended, in seconds.
        adopt_seconds: u64 = "600", 1..=86_400;
        /// How long it is kept what happened to VMs and who looked at them, in days.
        event_days: u32 = "90", 1..=36_500;
        /// How long it is kept who changed what (the audit trail), in days.
        audit_days: u32 = "365", 1..=36_500;
        /// What is kept of a VM's serial console for terminals that open later, in KB of memory for each VM.
        serial_scrollback_kb: usize = "256", 1..=65_536;
        /// Links to the consoles of one VM that are valid at the same time.
        shares_per_vm: u32 = "20", 1..=10_000;
        /// Screens and terminals of one VM that may be open at the same time; its owner has room for some more.
        viewers_per_vm: u32 = "250", 1..=10_000;
        /// Event streams one user may hold open.
        event_streams_per_user: usize = "8", 1..=1000;
    }
}

settings! {
    /// When the host counts as overloaded, and who is told.
    pub struct Alerts in "alerts" {
        /// CPU use of the host that raises an alert.
        cpu_percent: u32 = "90", 1..=100;
        /// Memory use of the host that raises an alert.
        memory_percent: u32 = "90", 1..=100;
        /// Use of the volume that holds VM_BASE_DIR that raises an alert.
        disk_percent: u32 = "85", 1..=100;
        /// The same for other volumes, by the folder they are mounted on: { "/srv" = 90 }.
        volumes: BTreeMap<String, u32> = "{}", 1..=100;
        /// Storage of one user that raises an alert, in MB. 0 means never.
        user_storage_mb: u64 = "0", 0..=1_073_741_824;
        /// CPU use of one VM that raises an alert, in percent of one processor. 0 means never.
        vm_cpu_percent: u32 = "0", 0..=1_000_000;
        /// Memory of one VM's QEMU that raises an alert, in MB. 0 means never.
        vm_memory_mb: u64 = "0", 0..=1_073_741_824;
        /// How long a value must stay over its limit before the alert.
        for_seconds: u64 = "60", 0..=86_400;
        /// How often an alert that goes on is told again. 0 means once.
        repeat_minutes: u64 = "60", 0..=10_080;
        /// Whether new launches are refused while a resource is over its limit.
        pause_launches: bool = "true";
        /// How often the host is measured.
        sample_seconds: u64 = "5", 1..=3600;
    }
}
