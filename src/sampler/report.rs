//! What people are told of an alert: who, where, when, how much, who it is that uses so much, and what the server does about it.
//!
//! The form is that of the old version's messages: a first line that says it all, the time, the largest consumers with vmid and user, the action.

use super::rules::{Event, Kind};
use super::storage::Storage;
use super::thresholds::Change;
use super::{Offender, Sample, VmLoad};
use crate::proto::telegram::{Message, Piece};
use std::collections::HashMap;

/// Names in one line.
const NAMED: usize = 5;
const GIB: f64 = 1_073_741_824.0;

/// What is known beside the event itself.
pub struct Around<'a> {
    /// The host's name.
    pub host: &'a str,
    /// The time, `2025-09-09 10:11:03Z`.
    pub time: String,
    /// What was measured.
    pub sample: &'a Sample,
    /// What lies on the disk, once it was looked at.
    pub storage: Option<&'a Storage>,
    /// Login names by user id, as far as they are known.
    pub logins: &'a HashMap<String, String>,
    /// The busiest processes: by processor time, and by memory.
    pub offenders: &'a (Vec<Offender>, Vec<Offender>),
    /// Launches wait, for this alert or another.
    pub paused: bool,
    /// Alerts such as this one make launches wait.
    pub stops: bool,
}

fn plain(text: impl Into<String>) -> Piece {
    Piece::Plain(text.into())
}

/// A value in its unit.
#[must_use]
pub fn shown(kind: Kind, value: f64) -> String {
    match kind {
        Kind::UserStorage | Kind::VmMemory => bytes(value),
        _ => format!("{value:.0}%"),
    }
}

fn bytes(bytes: f64) -> String {
    if bytes >= GIB * 10.0 {
        format!("{:.0}G", bytes / GIB)
    } else if bytes >= GIB {
        format!("{:.1}G", bytes / GIB)
    } else {
        format!("{:.0}M", bytes / 1_048_576.0)
    }
}

#[allow(clippy::cast_precision_loss)]
fn size(count: u64) -> String {
    bytes(count as f64)
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// The whole message.
#[must_use]
pub fn message(event: &Event, around: &Around<'_>) -> Message {
    let (kind, subject) = (&event.key.0, &event.key.1);
    let mut message = Message::default();
    let recovered = matches!(event.change, Change::Recovered { .. });
    let sign = match (recovered, kind) {
        (true, _) => "✅ ",
        (_, Kind::Cpu | Kind::Memory) => "🚨 ",
        _ => "⚠️ ",
    };
    let still = if event.change == Change::Repeated { " (still)" } else { "" };
    message.line([plain(sign), Piece::Bold(title(event, around, recovered)), plain(still)]);
    if !matches!(kind, Kind::Cpu | Kind::Memory) {
        message.line([plain("Host: "), plain(around.host)]);
    }
    message.line([plain("Time: "), plain(around.time.clone())]);
    let value = shown(*kind, event.value);
    let limit = shown(*kind, event.rule.limit);
    if let Change::Recovered { after } = event.change {
        message.line([plain(format!("Now: {value} (limit {limit}), it was over for {}", duration(after)))]);
    } else {
        message.line([plain(format!("Now: {value} (limit {limit} for {})", duration(event.rule.for_seconds)))]);
        let line = consumers(*kind, subject, around);
        if line.len() > 1 {
            message.line(line);
        }
    }
    message.line([plain("Action: "), plain(action(event, around, recovered))]);
    message
}

fn login<'a>(around: &'a Around<'_>, user: &'a str) -> &'a str {
    around.logins.get(user).map_or(user, String::as_str)
}

fn title(event: &Event, around: &Around<'_>, recovered: bool) -> String {
    let (kind, subject) = (&event.key.0, &event.key.1);
    let vm = around.sample.vms.iter().find(|vm| vm.vmid == *subject);
    let of_user = vm.map_or_else(String::new, |vm| format!(" of {}", vm.user));
    let value = shown(*kind, event.value);
    match (kind, recovered) {
        (Kind::Cpu, false) => format!("High CPU on {}", around.host),
        (Kind::Memory, false) => format!("High memory on {}", around.host),
        (Kind::Cpu, true) => format!("CPU is normal again on {}", around.host),
        (Kind::Memory, true) => format!("Memory is normal again on {}", around.host),
        (Kind::Disk, false) => format!("Disk usage {value} on {subject}"),
        (Kind::Inodes, false) => format!("Inode usage {value} on {subject}"),
        (Kind::Disk, true) => format!("Disk usage is normal again on {subject}"),
        (Kind::Inodes, true) => format!("Inode usage is normal again on {subject}"),
        (Kind::UserStorage, false) => format!("Storage of {} is {value}", login(around, subject)),
        (Kind::UserStorage, true) => format!("Storage of {} is normal again", login(around, subject)),
        (Kind::VmCpu, false) => format!("High CPU of VM {subject}{of_user}"),
        (Kind::VmMemory, false) => format!("High memory of VM {subject}{of_user}"),
        (Kind::VmCpu, true) => format!("CPU of VM {subject} is normal again"),
        (Kind::VmMemory, true) => format!("Memory of VM {subject} is normal again"),
    }
}

/// Who uses the most of it: a line, of one piece when there is nobody.
fn consumers(kind: Kind, subject: &str, around: &Around<'_>) -> Vec<Piece> {
    let mut line = Vec::new();
    let (by_cpu, by_memory) = around.offenders;
    match kind {
        Kind::Cpu | Kind::Memory => {
            line.push(plain("Top processes: "));
            let all = if kind == Kind::Cpu { by_cpu } else { by_memory };
            for one in all.iter().take(NAMED) {
                let much = if kind == Kind::Cpu { format!("{:.0}%", one.cpu_percent) } else { size(one.rss) };
                name(
                    &mut line,
                    &format!("{} {}", one.name, one.pid),
                    much,
                    around.sample.vms.iter().find(|vm| vm.pid == one.pid),
                );
            }
            if all.is_empty() {
                // Nobody looked at all processes yet; the VMs are known.
                vms(&mut line, kind, around);
            }
        }
        Kind::Disk | Kind::Inodes => {
            line.push(plain("Largest: "));
            let base = around.sample.volumes.first().is_some_and(|volume| volume.path.to_string_lossy() == subject);
            let folders = around.storage.filter(|_| base).map_or(&[][..], |storage| &storage.folders);
            for (folder, count) in folders.iter().take(NAMED) {
                comma(&mut line);
                line.push(plain(format!("{folder}/ ({})", size(*count))));
            }
            let users = around.storage.filter(|_| base).map_or(&[][..], |storage| &storage.users);
            for (user, count) in users.iter().take(3) {
                comma(&mut line);
                line.push(plain(format!("user {} ({})", login(around, user), size(*count))));
            }
        }
        Kind::VmCpu | Kind::VmMemory => {
            line.push(plain("VM: "));
            for vm in around.sample.vms.iter().filter(|vm| vm.vmid == subject) {
                name(&mut line, &format!("pid {}", vm.pid), used(vm), Some(vm));
            }
        }
        Kind::UserStorage => {
            line.push(plain("User: "));
            line.push(Piece::Code(subject.to_owned()));
            let vm = around.sample.vms.iter().find(|vm| vm.user == login(around, subject));
            if let Some(vm) = vm {
                line.push(plain(", vmid="));
                line.push(Piece::Code(vm.vmid.clone()));
            }
        }
    }
    line
}

fn used(vm: &VmLoad) -> String {
    vm.cpu_percent.map_or_else(|| size(vm.rss), |cpu| format!("{cpu:.0}%, {}", size(vm.rss)))
}

fn comma(line: &mut Vec<Piece>) {
    if line.len() > 1 {
        line.push(plain(", "));
    }
}

fn name(line: &mut Vec<Piece>, name: &str, much: String, vm: Option<&VmLoad>) {
    comma(line);
    line.push(plain(format!("{name} ({much}")));
    if let Some(vm) = vm {
        line.push(plain(format!(", user {}, vmid=", vm.user)));
        line.push(Piece::Code(vm.vmid.clone()));
    }
    line.push(plain(")"));
}

fn vms(line: &mut Vec<Piece>, kind: Kind, around: &Around<'_>) {
    let mut all: Vec<&VmLoad> = around.sample.vms.iter().collect();
    all.sort_by(|a, b| match kind {
        Kind::Cpu => b.cpu_percent.unwrap_or(0.0).total_cmp(&a.cpu_percent.unwrap_or(0.0)),
        _ => b.rss.cmp(&a.rss),
    });
    for vm in all.into_iter().take(NAMED) {
        name(line, &format!("qemu-system-x86 {}", vm.pid), used(vm), Some(vm));
    }
}

fn action(event: &Event, around: &Around<'_>, recovered: bool) -> String {
    let below = shown(event.key.0, event.rule.calm_below());
    let is_hosts = matches!(event.key.0, Kind::Cpu | Kind::Memory | Kind::Disk | Kind::Inodes);
    match (around.paused, recovered, event.key.0) {
        (true, false, _) if around.stops => {
            format!("new launches are paused (503) until it is below {below}; running VMs go on")
        }
        (true, false, _) if is_hosts => "none by the server for this; new launches wait for another alert".into(),
        (false, false, _) if is_hosts => "none by the server; new launches go on".into(),
        (_, false, Kind::UserStorage) => "none by the server; ask them to remove images, disks or snapshots".into(),
        (_, false, _) => "none by the server; an administrator can stop the VM".into(),
        (true, true, _) if is_hosts => "new launches still wait, for another alert".into(),
        (false, true, _) if is_hosts => "new launches go on".into(),
        (_, true, _) => "none".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Volume;
    use super::*;
    use crate::sampler::thresholds::Rule;

    fn event(kind: Kind, subject: &str, change: Change, value: f64) -> Event {
        let rule = Rule { limit: 90.0, for_seconds: 60, repeat_seconds: 0 };
        Event { key: (kind, subject.into()), change, value, rule }
    }

    fn told(event: &Event, paused: bool) -> (String, String) {
        let vm = VmLoad {
            vmid: "c9a2f1c9a2f1".into(),
            user: "ali<ce>".into(),
            pid: 7,
            cpu_percent: Some(312.4),
            rss: 3 << 30,
            ..VmLoad::default()
        };
        let volume = Volume {
            path: "/var/lib/vmshare".into(),
            total: 1,
            free: 0,
            percent: 92.0,
            inodes_percent: 1.0,
            is_measured: true,
        };
        let sample = Sample { vms: vec![vm], volumes: vec![volume], ..Sample::default() };
        let storage = Storage {
            folders: vec![("runs".into(), 120 << 30), ("uploads".into(), 64 << 30)],
            users: vec![("u1".into(), 5 << 29)],
        };
        let busy = |pid, name: &str, cpu_percent| Offender { pid, name: name.into(), cpu_percent, rss: 1 << 30 };
        let offenders = (vec![busy(7, "qemu-system-x86", 312.4), busy(8, "postgres", 120.0)], vec![]);
        let logins = HashMap::from([("u1".to_owned(), "bob".to_owned())]);
        let around = Around {
            host: "vmshare-host1",
            time: "2025-09-09 10:11:03Z".into(),
            sample: &sample,
            storage: Some(&storage),
            logins: &logins,
            offenders: &offenders,
            paused,
            stops: event.key.0 == Kind::Cpu,
        };
        let message = message(event, &around);
        (message.html(), message.plain())
    }

    #[test]
    fn high_cpu_is_told_with_its_processes_users_and_the_action() {
        let (html, plain) = told(&event(Kind::Cpu, "host", Change::Fired, 97.3), true);
        let wanted = "🚨 <b>High CPU on vmshare-host1</b>\nTime: 2025-09-09 10:11:03Z\nNow: 97% (limit 90% for 60 s)\n\
            Top processes: qemu-system-x86 7 (312%, user ali&lt;ce&gt;, vmid=<code>c9a2f1c9a2f1</code>), postgres 8 (120%)\n\
            Action: new launches are paused (503) until it is below 86%; running VMs go on";
        assert_eq!(html, wanted);
        assert!(plain.contains("user ali<ce>, vmid=c9a2f1c9a2f1), postgres 8 (120%)"), "{plain}");
    }

    #[test]
    fn a_full_disk_is_told_with_its_largest_folders_and_users() {
        let (_, plain) = told(&event(Kind::Disk, "/var/lib/vmshare", Change::Repeated, 92.0), false);
        let wanted = "⚠️ Disk usage 92% on /var/lib/vmshare (still)\nHost: vmshare-host1\nTime: 2025-09-09 10:11:03Z\n\
            Now: 92% (limit 90% for 60 s)\nLargest: runs/ (120G), uploads/ (64G), user bob (2.5G)\n\
            Action: none by the server; new launches go on";
        assert_eq!(plain, wanted);
    }

    #[test]
    fn an_alert_that_makes_nothing_wait_tells_of_the_one_that_does() {
        let action = |kind, subject, change, paused| {
            let (_, plain) = told(&event(kind, subject, change, 95.0), paused);
            plain.lines().last().expect("a line").to_owned()
        };
        let over = Change::Recovered { after: 60 };
        for (change, paused, wanted) in [
            (Change::Fired, false, "Action: none by the server; new launches go on"),
            (Change::Fired, true, "Action: none by the server for this; new launches wait for another alert"),
            (over, false, "Action: new launches go on"),
            (over, true, "Action: new launches still wait, for another alert"),
        ] {
            assert_eq!(action(Kind::Disk, "/srv", change, paused), wanted);
        }
        assert_eq!(action(Kind::Cpu, "host", over, true), "Action: new launches still wait, for another alert");
        assert_eq!(action(Kind::VmCpu, "c9a2f1c9a2f1", over, true), "Action: none");
    }

    #[test]
    fn the_end_of_an_alert_says_how_long_it_was() {
        let (_, plain) = told(&event(Kind::Memory, "host", Change::Recovered { after: 720 }, 40.0), false);
        let wanted = "✅ Memory is normal again on vmshare-host1\nTime: 2025-09-09 10:11:03Z\n\
            Now: 40% (limit 90%), it was over for 12 min\nAction: new launches go on";
        assert_eq!(plain, wanted);
        let (_, plain) = told(&event(Kind::Memory, "host", Change::Fired, 99.0), false);
        assert!(
            plain.contains("Top processes: qemu-system-x86 7 (312%, 3.0G, user ali<ce>, vmid=c9a2f1c9a2f1)"),
            "{plain}"
        );
        assert_eq!([shown(Kind::UserStorage, 5e8), shown(Kind::VmMemory, 5e10)], ["477M", "47G"]);
    }
}
