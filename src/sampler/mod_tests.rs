//! Tests of the sampler's thread against a made-up host.

use super::probe::tests::{watched, write_host};
use super::*;
use crate::config::{Config, Overrides};

fn config(folder: &Path, alerts: &str) -> Config {
    std::fs::write(folder.join("vmshare.toml"), format!("vm_base_dir = {folder:?}\n[alerts]\n{alerts}\n"))
        .expect("settings");
    Config::load(&Overrides::default(), std::iter::empty(), folder).expect("good settings").0
}

/// What the thread's state tells after each of some looks, a second apart.
fn reports(state: &mut State, host: &Path, busy: &[u64]) -> Vec<Report> {
    let mut now = Instant::now();
    let (mut sum, mut idle) = (0, 1000);
    let mut reports = Vec::new();
    for ticks in busy {
        sum += ticks;
        write_host(host, 3, sum, 0, 0);
        idle += 100_u64.saturating_sub(*ticks);
        std::fs::write(host.join("stat"), format!("cpu  {sum} 0 0 {idle} 0\ncpu0 {sum} 0 0 {idle} 0\n")).expect("stat");
        now += Duration::from_secs(1);
        let (answer, promise) = oneshot();
        state.take(Watch::Next(answer));
        state.sample(now);
        reports.extend(crate::work::tests::run(promise));
    }
    reports
}

#[test]
fn an_overloaded_host_is_told_once_pauses_launches_and_recovers() {
    let folder = tempfile::tempdir().expect("folder");
    let config = config(folder.path(), "for_seconds = 1\ndisk_percent = 100\nmemory_percent = 100");
    let host = folder.path().join("proc");
    let mut state = State::new(&host, &config, None, Arc::default());
    state.watched = watched(3);
    // Of a hundred ticks each.
    let told = reports(&mut state, &host, &[100, 100, 100, 100, 0, 0, 0, 0]);
    let paused: Vec<bool> = told.iter().map(|report| report.pause.is_some()).collect();
    assert_eq!(paused, [false, false, true, true, true, false, false, false], "{told:?}");
    let alerts: Vec<&Alert> = told.iter().flat_map(|report| &report.alerts).collect();
    let [fired, over] = alerts.as_slice() else { panic!("{alerts:?}") };
    assert_eq!((fired.kind, fired.ended, fired.value), (Kind::Cpu, None, 100.0));
    assert!(fired.text.contains("new launches are paused (503) until it is below 86%"), "{}", fired.text);
    assert!(over.ended.is_some() && over.since == fired.since && over.text.contains("new launches go on"), "{over:?}");
    assert!(told[4].pause.as_ref().is_some_and(|why| why.contains("a moment ago")), "{:?}", told[4].pause);
    assert_eq!(told[3].firing, BTreeMap::from([(Kind::Cpu, 1)]));
    assert_eq!(told[3].sample.vms.len(), 3);
}

#[test]
fn what_nobody_asked_for_waits_within_a_bound() {
    let folder = tempfile::tempdir().expect("folder");
    let config = config(folder.path(), "for_seconds = 0\nrepeat_minutes = 0\nvm_memory_mb = 1\nmemory_percent = 100");
    let host = folder.path().join("proc");
    let mut state = State::new(&host, &config, None, Arc::default());
    let sample = Sample::default();
    let rule = thresholds::Rule { limit: 1.0, for_seconds: 0, repeat_seconds: 0 };
    for n in 0..1000 {
        let event = Event { key: (Kind::VmMemory, n.to_string()), change: Change::Fired, value: 2.0, rule };
        state.tell(&event, &sample, &Default::default(), false);
    }
    let told = reports(&mut state, &host, &[1]).pop().expect("a report");
    assert_eq!((told.alerts.len(), &*told.alerts[0].subject), (CHANGES, "744"));
}

#[test]
fn an_alert_ends_under_the_name_it_began_with() {
    let folder = tempfile::tempdir().expect("folder");
    let mut state = State::new(&folder.path().join("proc"), &config(folder.path(), ""), None, Arc::default());
    let rule = thresholds::Rule { limit: 1.0, for_seconds: 0, repeat_seconds: 0 };
    let tell = |state: &mut State, change| {
        let event = Event { key: (Kind::UserStorage, "a1b2".into()), change, value: 2.0, rule };
        state.tell(&event, &Sample::default(), &Default::default(), false);
        let alert = state.changes.back().expect("an alert");
        (alert.subject.clone(), alert.text.lines().next().expect("a line").to_owned())
    };
    assert_eq!(tell(&mut state, Change::Fired), ("a1b2".into(), "⚠️ Storage of a1b2 is 0M".into()));
    state.take(Watch::Logins(HashMap::from([("a1b2".to_owned(), "alice".to_owned())])));
    let over = Change::Recovered { after: 5 };
    assert_eq!(tell(&mut state, over), ("a1b2".into(), "✅ Storage of alice is normal again".into()));
    assert_eq!(tell(&mut state, Change::Fired).0, "alice");
}

#[test]
fn the_thread_answers_with_a_sample_of_this_host_and_ends_with_its_handle() {
    let folder = tempfile::tempdir().expect("folder");
    let sampler = Sampler::start(&config(folder.path(), "sample_seconds = 1")).expect("threads");
    let own = std::process::id();
    let start = crate::sys::process::start_time(own).expect("proc").expect("this process");
    sampler.add(Watched { pid: own, start, vmid: "c9a2f1c9a2f1".into(), user: "alice".into(), io: None });
    let report = crate::work::tests::run(sampler.next()).expect("a report");
    let vm = &report.sample.vms[0];
    assert!(vm.rss > 0 && vm.threads > 0 && vm.user == "alice", "{report:?}");
    assert!(report.sample.own.is_some_and(|own| own.cpu_seconds > 0.0));
    sampler.remove(own);
    let next = crate::work::tests::run(sampler.next()).expect("a report");
    assert_eq!(next.sample.vms, []);
}

#[test]
fn after_a_stall_the_next_sample_is_an_interval_away() {
    let (due, five) = (Instant::now(), Duration::from_secs(5));
    let after = |late| following(due, due + Duration::from_secs(late), five) - due;
    assert_eq!([after(0), after(4)], [five, five], "a sample that is a little late moves no other");
    assert_eq!([after(5), after(60)], [five * 2, five * 13]);
}
