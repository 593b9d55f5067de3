//! The database room against a real PostgreSQL: a private cluster in a temporary folder, one for the whole file.

use postgres::NoTls;
use std::collections::HashSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};
use vmshare::db::users::{self, NewUser};
use vmshare::db::vms::{self, Reserved, VmState, Wish};
use vmshare::db::{Db, Error, Settings, State, Thread, open_for_cli, ports};

const PATIENT: Duration = Duration::from_secs(30);

/// Waits for a future on this thread.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park_timeout(PATIENT);
    }
}

struct Cluster {
    folder: tempfile::TempDir,
    db: Db,
    thread: Option<Thread>,
}

fn settings(base: &Path) -> Settings {
    Settings { url: None, base_dir: base.to_owned(), postgres_bin_dir: None, queue: 256, connect_timeout: PATIENT }
}

fn start(folder: tempfile::TempDir) -> Cluster {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("chmod");
    let (db, thread) = Db::start(settings(folder.path()), |_| ()).expect("thread");
    until("the database is ready", || db.state() == State::Ready, || format!("{:?}", db.state()));
    Cluster { folder, db, thread: Some(thread) }
}

impl Cluster {
    fn stop(mut self) -> tempfile::TempDir {
        self.thread.take().expect("it runs").stop(PATIENT);
        self.folder
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool, saw: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {} s until {what}; saw {}", PATIENT.as_secs(), saw());
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("vmsdb").tempdir_in("/tmp").expect("folder")
}

/// The shared cluster; it is ended with the process by [`stop_shared`].
fn shared() -> &'static Db {
    static SHARED: OnceLock<(Db, PathBuf)> = OnceLock::new();
    extern "C" fn stop_shared() {
        if let Some((_, folder)) = SHARED.get() {
            let pid = std::fs::read_to_string(folder.join("postgres/data/postmaster.pid")).unwrap_or_default();
            if let Some(pid) = pid.lines().next() {
                let _ = std::process::Command::new("kill").args(["-INT", pid]).status();
            }
            let _ = std::process::Command::new("sh")
                .args(["-c", "for i in 1 2 3 4 5 6 7 8 9; do rm -rf \"$0\" && exit; sleep 0.2; done"])
                .arg(folder)
                .spawn();
        }
    }
    let (db, _) = SHARED.get_or_init(|| {
        let cluster = start(folder());
        let (db, path) = (cluster.db.clone(), cluster.folder.keep());
        std::mem::forget(cluster.thread);
        at_exit(stop_shared);
        (db, path)
    });
    db
}

#[allow(unsafe_code)]
fn at_exit(action: extern "C" fn()) {
    // SAFETY: the function takes nothing and lives as long as the program.
    unsafe { libc::atexit(action) };
}

fn user(db: &Db, name: &str) -> String {
    let new =
        NewUser { email: format!("{name}@example.org"), login: name.into(), role: "user".into(), phc: "x".into() };
    wait(users::create(db, new, None, "192.0.2.1".into())).expect("created").expect("no invitation is needed").id
}

fn wish(user: &str, first_port: u16, count: u16) -> Wish {
    Wish {
        vmid: vmshare::random::hex_id(),
        user_id: user.into(),
        profile: "custom".into(),
        iso: "tiny.iso".into(),
        persistence: "ephemeral".into(),
        disk: None,
        memory_mb: 128,
        cpus: 1,
        vnc_range: first_port..=first_port + count - 1,
        http_range: first_port + 1000..=first_port + 1000 + count - 1,
    }
}

fn seed(db: &Db, wish: &Wish) {
    wait(ports::seed(db, vec![(wish.vnc_range.clone(), wish.http_range.clone())])).expect("seeded");
}

fn reserve(db: &Db, wish: &Wish) -> Reserved {
    wait(vms::reserve(db, wish.clone())).expect("reserved")
}

#[test]
fn one_user_gets_one_row_and_the_second_click_sees_it() {
    let db = shared();
    let wish = wish(&user(db, "one"), 10_000, 5);
    seed(db, &wish);
    let Reserved::New(row) = reserve(db, &wish) else { panic!("no new row") };
    assert_eq!((row.vnc_port, row.http_port, row.state), (10_000, 11_000, VmState::Starting));
    let again = Wish { vmid: vmshare::random::hex_id(), ..wish };
    assert!(matches!(reserve(db, &again), Reserved::Busy(busy) if busy.vmid == row.vmid));
    let running = wait(vms::mark_running(db, row.vmid.clone(), 7, 8, "boot".into(), "tcg".into())).expect("marked");
    assert_eq!(running.expect("it was starting").state, VmState::Running);
    assert!(matches!(reserve(db, &again), Reserved::Running(r) if r.pid == Some(7)));
    assert_eq!(wait(vms::mark_running(db, row.vmid, 9, 9, "b".into(), "tcg".into())), Ok(None), "compare and set");
}

#[test]
fn twenty_users_at_once_get_twenty_different_ports() {
    let db = shared();
    let wishes: Vec<Wish> = (0..20).map(|i| wish(&user(db, &format!("crowd{i}")), 12_000, 20)).collect();
    seed(db, &wishes[0]);
    let threads: Vec<_> = wishes
        .into_iter()
        .map(|wish| {
            let db = db.clone();
            std::thread::spawn(move || match reserve(&db, &wish) {
                Reserved::New(row) => (row.vnc_port, row.http_port),
                other => panic!("{other:?}"),
            })
        })
        .collect();
    let got: HashSet<(u16, u16)> = threads.into_iter().map(|t| t.join().expect("thread")).collect();
    assert_eq!(got.len(), 20, "{got:?}");
    assert_eq!(got.iter().map(|(_, http)| http).collect::<HashSet<_>>().len(), 20, "{got:?}");
}

#[test]
fn ports_run_out_cool_down_and_come_back() {
    let db = shared();
    let (a, b) = (wish(&user(db, "porta"), 14_000, 1), wish(&user(db, "portb"), 14_000, 1));
    seed(db, &a);
    assert!(matches!(reserve(db, &a), Reserved::New(_)));
    assert!(matches!(reserve(db, &b), Reserved::NoPorts { kind: "vnc", free_in: None }));
    let finish =
        |cooldown| wait(vms::finish(db, a.vmid.clone(), VmState::Stopped, "x".into(), cooldown)).expect("finished");
    assert_eq!(finish(Duration::from_secs(600)).expect("the row").exit.as_deref(), Some("x"));
    assert!(matches!(reserve(db, &b), Reserved::NoPorts { free_in: Some(590..=600), .. }), "it cools down");
    finish(Duration::ZERO);
    assert!(matches!(reserve(db, &b), Reserved::NoPorts { .. }), "a second end changes nothing");
    let c = Wish { vmid: vmshare::random::hex_id(), ..wish(&user(db, "portc"), 14_100, 1) };
    seed(db, &c);
    assert!(matches!(reserve(db, &c), Reserved::New(_)));
    wait(vms::forget(db, c.vmid.clone(), Duration::ZERO)).expect("forgotten");
    wait(vms::forget(db, c.vmid.clone(), Duration::ZERO)).expect("twice is as once");
    assert!(matches!(reserve(db, &c), Reserved::New(_)), "what is taken back is there again");
    wait(vms::forget(db, c.vmid.clone(), Duration::from_secs(600))).expect("forgotten");
    assert!(matches!(reserve(db, &c), Reserved::NoPorts { .. }), "what may be why a launch failed rests");
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let db = shared();
    // The HTTP range has no ports: the VNC port that was taken must come back.
    let broken = Wish { http_range: 1..=1, ..wish(&user(db, "half"), 15_000, 1) };
    wait(ports::seed(db, vec![(15_000..=15_000, 16_000..=16_000)])).expect("seeded");
    assert!(matches!(reserve(db, &broken), Reserved::NoPorts { kind: "http", free_in: None }));
    assert!(matches!(reserve(db, &Wish { http_range: 16_000..=16_000, ..broken }), Reserved::New(_)));
}

#[test]
fn a_taken_address_names_its_constraint_in_any_case() {
    let db = shared();
    user(db, "taken");
    let new =
        NewUser { email: "TAKEN@example.org".into(), login: "other".into(), role: "user".into(), phc: "x".into() };
    let refused = wait(users::create(db, new, None, "192.0.2.1".into()));
    assert_eq!(refused, Err(Error::Unique { constraint: "users_email_key".into() }));
}

#[test]
fn a_job_that_panics_costs_only_its_own_answer() {
    let db = shared();
    let broken: Result<(), Error> = wait(db.call(|_| panic!("a bug in a job")));
    assert_eq!(broken, Err(Error::Lost));
    until(
        "jobs are answered again",
        || wait(ports::counts(db, vec![("p".into(), 1..=2, 3..=4)])).is_ok(),
        || format!("{:?}", db.state()),
    );
}

#[test]
fn a_killed_postmaster_comes_back_by_itself() {
    let cluster = start(folder());
    let pid = postmaster(cluster.folder.path());
    kill("-KILL", &pid);
    let db = &cluster.db;
    // Its backends notice a moment later, and answer until then.
    let another = || running_postmaster(cluster.folder.path()).is_some_and(|new| new != pid);
    until(
        "another postmaster answers",
        || wait(ports::counts(db, vec![("p".into(), 1..=2, 3..=4)])).is_ok() && another(),
        || format!("{:?}", db.state()),
    );
    cluster.stop();
}

#[test]
fn a_cluster_left_behind_is_taken_over_and_stopped_at_the_end() {
    let cluster = start(folder());
    user(&cluster.db, "kept");
    let folder = cluster.stop();
    // The command line starts it; forgetting the handle leaves it running, as a killed server does.
    let cli = open_for_cli(&settings(folder.path())).expect("opened");
    std::mem::forget(cli);
    let left = postmaster(folder.path());
    let cluster = start(folder);
    assert_eq!(postmaster(cluster.folder.path()), left, "not a second one");
    let found = wait(users::by_email_or_login(&cluster.db, "kept".into())).expect("asked");
    assert!(found.is_some(), "what was stored is still there");
    let folder = cluster.stop();
    assert!(!folder.path().join("postgres/data/postmaster.pid").exists(), "it is stopped");
}

#[test]
fn a_database_that_is_newer_is_refused_and_a_second_server_too() {
    let cluster = start(folder());
    let second = Db::start(settings(cluster.folder.path()), |_| ()).expect("thread");
    let refused = |db: &Db, words: &str| {
        let told = || matches!(db.state(), State::Refused { reason } if reason.contains(words));
        until(words, told, || format!("{:?}", db.state()));
    };
    refused(&second.0, "another vmshare server uses this database");
    second.1.stop(PATIENT);
    let socket = cluster.folder.path().join("postgres/run");
    let mut config = postgres::Config::new();
    let mut raw = config.host_path(socket).user("vmshare").dbname("vmshare").connect(NoTls).expect("connected");
    raw.execute("insert into schema_migrations (version, name, sha256) values (999, 'future', '')", &[]).expect("row");
    drop(raw);
    let folder = cluster.stop();
    let newer = Db::start(settings(folder.path()), |_| ()).expect("thread");
    refused(&newer.0, "start the newer vmshare");
    newer.1.stop(PATIENT);
}

fn postmaster(folder: &Path) -> String {
    running_postmaster(folder).expect("it runs")
}

fn running_postmaster(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("postgres/data/postmaster.pid")).ok()?;
    text.lines().next().map(str::to_owned)
}

fn kill(signal: &str, pid: &str) {
    assert!(std::process::Command::new("kill").args([signal, pid]).status().expect("kill").success());
}
