//! Which values are looked at, and how each stands: one [`State`] for each thing that is over its limit, and none for the others.

use super::storage::Storage;
use super::thresholds::{Change, Rule, State};
use super::{Sample, Volume};
use crate::config::Alerts;
use std::collections::{BTreeMap, BTreeSet};

/// Things of one kind that are followed at the same time: users, VMs.
const FOLLOWED: usize = 256;
const MIB: f64 = 1_048_576.0;

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Processors of the host.
    Cpu,
    /// Its memory.
    Memory,
    /// Space of a volume.
    Disk,
    /// Files of a volume.
    Inodes,
    /// What a user keeps.
    UserStorage,
    /// Processors used by one VM.
    VmCpu,
    /// Memory used by one VM.
    VmMemory,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Cpu, Self::Memory, Self::Disk, Self::Inodes, Self::UserStorage, Self::VmCpu, Self::VmMemory];

    /// In the API, the database and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Inodes => "inodes",
            Self::UserStorage => "user_storage",
            Self::VmCpu => "vm_cpu",
            Self::VmMemory => "vm_memory",
        }
    }
}

/// A kind, and which of them: the host, a volume's path, a user's id, a vmid.
pub type Key = (Kind, String);

/// Something that changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What it is about.
    pub key: Key,
    /// How it changed.
    pub change: Change,
    /// The value that was seen.
    pub value: f64,
    /// Its rule.
    pub rule: Rule,
}

/// See the file's page.
pub struct Rules {
    settings: Alerts,
    states: BTreeMap<Key, State>,
    last: BTreeMap<Key, f64>,
}

/// The subject of what is about the whole host.
pub const HOST: &str = "host";

impl Rules {
    /// Rules by the settings.
    #[must_use]
    pub const fn new(settings: Alerts) -> Self {
        Self { settings, states: BTreeMap::new(), last: BTreeMap::new() }
    }

    fn rule(&self, kind: Kind, subject: &str) -> Option<Rule> {
        let set = &self.settings;
        #[allow(clippy::cast_precision_loss)]
        let limit = match kind {
            Kind::Cpu => f64::from(set.cpu_percent),
            Kind::Memory => f64::from(set.memory_percent),
            Kind::Disk | Kind::Inodes => f64::from(set.volumes.get(subject).copied().unwrap_or(set.disk_percent)),
            Kind::UserStorage => set.user_storage_mb as f64 * MIB,
            Kind::VmCpu => f64::from(set.vm_cpu_percent),
            Kind::VmMemory => set.vm_memory_mb as f64 * MIB,
        };
        let rule = Rule { limit, for_seconds: set.for_seconds, repeat_seconds: set.repeat_minutes.saturating_mul(60) };
        (limit > 0.0).then_some(rule)
    }

    /// Takes a sample, and what a walk over the storage found last.
    pub fn see(&mut self, sample: &Sample, storage: Option<&Storage>, now: u64) -> Vec<Event> {
        // A value that could not be read is none: it begins no alert and ends none.
        let mut values: Vec<(Key, Option<f64>)> = Vec::with_capacity(8);
        values.push(((Kind::Cpu, HOST.into()), sample.cpu_percent));
        let memory = Some(sample.memory_percent()).filter(|_| sample.memory.total > 0);
        values.push(((Kind::Memory, HOST.into()), memory));
        for Volume { path, percent, inodes_percent, is_measured, .. } in &sample.volumes {
            let path = path.to_string_lossy().into_owned();
            values.push(((Kind::Disk, path.clone()), is_measured.then_some(*percent)));
            values.push(((Kind::Inodes, path), is_measured.then_some(*inodes_percent)));
        }
        #[allow(clippy::cast_precision_loss)]
        {
            let users = storage.map_or(&[][..], |storage| &storage.users);
            values.extend(users.iter().map(|(user, bytes)| ((Kind::UserStorage, user.clone()), Some(*bytes as f64))));
            for vm in sample.vms.iter().filter(|_| self.settings.vm_cpu_percent > 0 || self.settings.vm_memory_mb > 0) {
                values.push(((Kind::VmCpu, vm.vmid.clone()), vm.cpu_percent));
                values.push(((Kind::VmMemory, vm.vmid.clone()), Some(vm.rss as f64)));
            }
        }
        self.judge(values, storage.is_some(), now)
    }

    fn judge(&mut self, values: Vec<(Key, Option<f64>)>, knows_storage: bool, now: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let mut there = BTreeSet::new();
        for (key, value) in values {
            let Some(rule) = self.rule(key.0, &key.1) else { continue };
            let Some(value) = value else {
                there.insert(key);
                continue;
            };
            let known = self.states.get(&key).copied();
            let is_full = || self.states.keys().filter(|(kind, _)| *kind == key.0).count() >= FOLLOWED;
            if known.is_none() && (value <= rule.limit || is_full()) {
                continue;
            }
            let mut state = known.unwrap_or_default();
            if let Some(change) = state.see(&rule, value, now) {
                events.push(Event { key: key.clone(), change, value, rule });
            }
            there.insert(key.clone());
            if state.is_calm() {
                self.states.remove(&key);
                self.last.remove(&key);
            } else {
                self.last.insert(key.clone(), value);
                self.states.insert(key, state);
            }
        }
        // What can end: VMs do, and users may lose all they had. Nothing else goes away by not being measured once.
        let ends = |kind| match kind {
            Kind::VmCpu | Kind::VmMemory => true,
            Kind::UserStorage => knows_storage,
            _ => false,
        };
        let gone: Vec<Key> = self.states.keys().filter(|key| ends(key.0) && !there.contains(*key)).cloned().collect();
        for key in gone {
            self.last.remove(&key);
            let change = self.states.remove(&key).and_then(|mut state| state.end(now));
            if let (Some(change), Some(rule)) = (change, self.rule(key.0, &key.1)) {
                events.push(Event { key, change, value: 0.0, rule });
            }
        }
        events
    }

    /// True while one of this kind is over its limit, told or not.
    #[must_use]
    pub fn is_over(&self, kind: Kind) -> bool {
        self.states.keys().any(|(other, _)| *other == kind)
    }

    /// Alerts that fire now.
    pub fn firing(&self) -> impl Iterator<Item = &Key> {
        self.states.iter().filter(|(_, state)| state.is_firing()).map(|(key, _)| key)
    }

    /// Why nothing may be launched, if so: the first of processors, memory and the volume of `base` that fires.
    #[must_use]
    pub fn pause(&self, base: &str) -> Option<String> {
        let stops = |(kind, subject): &&Key| match kind {
            Kind::Cpu | Kind::Memory => true,
            Kind::Disk | Kind::Inodes => subject == base,
            _ => false,
        };
        let (kind, subject) = self.firing().find(stops).filter(|_| self.settings.pause_launches)?;
        let rule = self.rule(*kind, subject)?;
        let value = self.last.get(&(*kind, subject.clone())).copied().unwrap_or(rule.limit);
        if value <= rule.limit {
            let what = if *kind == Kind::Cpu { "processors were" } else { "memory or disk was" };
            return Some(format!("The server's {what} overloaded a moment ago; new VMs wait until that has settled."));
        }
        let what = match kind {
            Kind::Cpu => "processors are",
            Kind::Memory => "memory is",
            Kind::Inodes => "disk has room for few more files: it is",
            _ => "disk is",
        };
        Some(format!("The server's {what} {value:.0}% in use, and new VMs wait above {:.0}%.", rule.limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::procfs::Memory;
    use crate::sampler::VmLoad;

    fn rules(change: impl Fn(&mut Alerts)) -> Rules {
        let mut settings = crate::config::tests_only_alerts();
        settings.for_seconds = 10;
        change(&mut settings);
        Rules::new(settings)
    }

    fn sample(cpu: f64, available: u64, disk: f64) -> Sample {
        let memory = Memory { total: 100, available, swap_total: 0, swap_free: 0 };
        let volume =
            Volume { path: "/srv".into(), total: 100, free: 5, percent: disk, inodes_percent: 1.0, is_measured: true };
        Sample { cpus: 2, cpu_percent: Some(cpu), memory, volumes: vec![volume], ..Sample::default() }
    }

    fn names(events: &[Event]) -> Vec<(&'static str, &str, Change)> {
        events.iter().map(|event| (event.key.0.name(), event.key.1.as_str(), event.change)).collect()
    }

    #[test]
    fn processors_memory_and_the_servers_own_disk_stop_launches_and_say_why() {
        for (seen, wanted) in [
            (sample(97.0, 50, 10.0), Some("The server's processors are 97% in use, and new VMs wait above 90%.")),
            (sample(10.0, 5, 10.0), Some("The server's memory is 95% in use, and new VMs wait above 90%.")),
            (sample(10.0, 50, 86.0), Some("The server's disk is 86% in use, and new VMs wait above 85%.")),
            (sample(90.0, 50, 10.0), None),
        ] {
            let mut rules = rules(|_| ());
            assert_eq!(rules.see(&seen, None, 0), []);
            assert_eq!(rules.pause("/srv"), None, "not yet");
            let fired = rules.see(&seen, None, 10);
            assert_eq!(fired.len(), usize::from(wanted.is_some()));
            assert_eq!(rules.pause("/srv").as_deref(), wanted);
            assert!(!rules.see(&sample(1.0, 99, 1.0), None, 20).iter().any(|e| e.change == Change::Fired));
            rules.see(&sample(1.0, 99, 1.0), None, 30);
            assert_eq!(rules.pause("/srv"), None, "it calmed down");
        }
    }

    #[test]
    fn launches_go_on_where_the_settings_say_so_and_for_other_volumes() {
        let mut off = rules(|set| set.pause_launches = false);
        let mut other = rules(|_| ());
        for now in [0, 10] {
            off.see(&sample(97.0, 50, 10.0), None, now);
            other.see(&sample(10.0, 50, 99.0), None, now);
        }
        assert_eq!((off.firing().count(), off.pause("/srv")), (1, None));
        assert_eq!((other.firing().count(), other.pause("/var/lib/vmshare")), (1, None));
    }

    #[test]
    fn a_volume_has_its_own_limit_where_it_is_named() {
        let mut rules = rules(|set| {
            set.volumes.insert("/srv".into(), 95);
            set.for_seconds = 0;
        });
        assert_eq!(rules.see(&sample(1.0, 50, 94.0), None, 0), []);
        assert_eq!(names(&rules.see(&sample(1.0, 50, 96.0), None, 5)), [("disk", "/srv", Change::Fired)]);
    }

    #[test]
    fn users_and_vms_are_followed_by_name_and_end_with_what_they_had() {
        let mut rules = rules(|set| {
            (set.for_seconds, set.user_storage_mb, set.vm_cpu_percent, set.vm_memory_mb) = (0, 1, 150, 1);
        });
        let storage = |users: &[(&str, u64)]| Storage {
            users: users.iter().map(|(user, bytes)| ((*user).to_owned(), *bytes)).collect(),
            folders: Vec::new(),
        };
        let mut seen = sample(1.0, 50, 1.0);
        seen.vms = vec![VmLoad { vmid: "v1".into(), cpu_percent: Some(200.0), rss: 5, ..VmLoad::default() }];
        let fired = rules.see(&seen, Some(&storage(&[("u1", 2 << 20), ("u2", 5)])), 0);
        assert_eq!(names(&fired), [("user_storage", "u1", Change::Fired), ("vm_cpu", "v1", Change::Fired)]);
        // It could not be read once.
        seen.vms[0].cpu_percent = None;
        assert_eq!(rules.see(&seen, None, 1), []);
        // A sample without a walk says nothing of users; the VM has ended.
        seen.vms.clear();
        assert_eq!(names(&rules.see(&seen, None, 5)), [("vm_cpu", "v1", Change::Recovered { after: 5 })]);
        let over = rules.see(&seen, Some(&storage(&[("u2", 5)])), 9);
        assert_eq!(names(&over), [("user_storage", "u1", Change::Recovered { after: 9 })]);
    }

    #[test]
    fn a_volume_that_does_not_answer_begins_no_alert_and_ends_none() {
        let mut rules = rules(|set| set.for_seconds = 0);
        let mut silent = |disk, now, is_measured| {
            let mut seen = sample(1.0, 50, disk);
            seen.volumes[0].is_measured = is_measured;
            rules.see(&seen, None, now).len()
        };
        assert_eq!([silent(99.0, 0, false), silent(99.0, 5, true), silent(1.0, 10, false)], [0, 1, 0]);
        assert_eq!(silent(1.0, 15, true), 1, "it is over");
    }

    #[test]
    fn what_cannot_be_read_is_no_alert_and_no_recovery() {
        let mut rules = rules(|set| set.for_seconds = 0);
        assert_eq!(rules.see(&Sample::default(), None, 0), []);
        assert_eq!(rules.see(&sample(99.0, 50, 1.0), None, 5).len(), 1);
        assert_eq!(rules.see(&Sample::default(), None, 500), []);
        assert!(rules.is_over(Kind::Cpu));
    }

    #[test]
    fn no_more_are_followed_than_there_is_room_for() {
        let mut rules = rules(|set| (set.for_seconds, set.user_storage_mb) = (0, 1));
        let users = (0..1000).map(|n| (format!("u{n}"), 9 << 20)).collect();
        let storage = Storage { users, folders: Vec::new() };
        assert_eq!(rules.see(&sample(1.0, 50, 1.0), Some(&storage), 0).len(), FOLLOWED);
    }
}
