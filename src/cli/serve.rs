//! `vmshare serve`: puts the house together, runs it, and takes it apart.
//!
//! Order matters: signals are blocked before the first thread exists; the folder's lock is taken before anything in it is touched; the
//! socket is bound before the database is up, so that a health check hears "starting" and not "refused".

use crate::config::{Config, Overrides, Tls};
use crate::db::{Db, State};
use crate::house::House;
use crate::metrics::Metrics;
use crate::net::tls::{self, TlsSettings};
use crate::reactor::task::Tasks;
use crate::reactor::{Clock, Reactor};
use crate::sampler::Sampler;
use crate::server::Server;
use crate::store::{Claims, Layout};
use crate::sys::lock::FolderLock;
use crate::sys::signal::{self, Signal, SignalFd};
use crate::sys::{rlimit, sockopt};
use crate::vm::apart::{Apart, Users};
use crate::vm::cgroup::Groups;
use crate::vm::diary::Diary;
use crate::vm::hypervisor::Hypervisor;
use crate::vm::launch::Launches;
use crate::vm::net_filter::NetFilter;
use crate::vm::{Vms, adopt, host};
use crate::web::events::Bus;
use crate::web::session::Sessions;
use crate::web::throttle::Throttle;
use crate::web::uploads::Uploads;
use crate::work::Pool;
use crate::work::hash::Hash;
use std::fs::{DirBuilder, Permissions};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A service manager that told us to end hears of it within ten seconds, whatever hangs.
const END: Duration = Duration::from_millis(9500);
/// How long the database may take to end when nobody waits.
const DB_END: Duration = Duration::from_secs(20);
/// Signals the loop reads.
const SIGNALS: [Signal; 4] = [Signal::Terminate, Signal::Interrupt, Signal::Hangup, Signal::User1];
/// Length of a secret made here.
const SECRET_BYTES: usize = 32;

/// Runs the server to its end.
///
/// # Errors
/// What stops the start or the loop, with what to do.
pub(super) fn run(overrides: &Overrides) -> Result<(), String> {
    let started = Instant::now();
    let config = super::load(overrides)?;
    let config = Arc::new(config);
    signal::block(&SIGNALS).map_err(|e| format!("signals cannot be blocked: {e}"))?;
    let signals = SignalFd::new(&SIGNALS).map_err(|e| format!("no signalfd: {e}"))?;
    prepare_folders(&config.base_dir)?;
    let _lock = FolderLock::take(&config.base_dir).map_err(|e| e.to_string())?;
    if let Err(e) = rlimit::raise_open_files() {
        log::warn!("the limit of open files stays low: {e}");
    }
    let (apart, groups) = isolation(&config);
    let secret = secret(&config)?;
    let tls = tls_settings(&config)?;
    let reactor = Reactor::new().map_err(|e| format!("no epoll: {e}"))?;
    let bell = reactor.bell();
    let ring = Arc::clone(&bell);
    let tasks = Tasks::new(Arc::new(move || ring.ring()));
    let listeners = bind(&config)?;
    let limits = &config.limits;
    let thread = |e: std::io::Error| format!("no thread can be started: {e}");
    let (db, db_thread) = Db::start(super::db_settings(&config), on_db_change).map_err(thread)?;
    let house = Rc::new(House {
        clock: Clock::new(Instant::now()),
        io: reactor.io(),
        spawner: tasks.spawner(),
        db,
        diary: Diary::default(),
        disk: Pool::start("disk", 2, limits.disk_queue).map_err(thread)?,
        store: Pool::start("store", 2, 0).map_err(thread)?,
        pictures: Pool::start_behind("pictures", 1, crate::vm::screen::WAITING).map_err(thread)?,
        layout: Layout::new(&config.base_dir),
        claims: Claims::default(),
        uploads: Uploads::default(),
        hash: Hash::start(limits.hash_queue).map_err(thread)?,
        sessions: Sessions::new(&secret),
        throttle: Throttle::default(),
        launches: Launches::new(limits.concurrent_launches),
        vms: Vms::default(),
        bus: Bus::default(),
        metrics: Metrics::default(),
        sampler: Sampler::start(&config).map_err(thread)?,
        host: host::Host::default(),
        relayed: Rc::default(),
        hypervisor: Hypervisor::default(),
        apart,
        groups: Arc::new(groups),
        net_filter: NetFilter::default(),
        tls,
        port: config.port.into(),
        orders: Vec::new().into(),
        stopping: false.into(),
        swept: false.into(),
        going_on: 0.into(),
        spooling: 0.into(),
        config: Arc::clone(&config),
    });
    Hypervisor::begin(&house);
    host::begin(&house);
    adopt::begin(&house);
    let cx = Rc::clone(&house);
    let mut server = Server::new(reactor, tasks, house, signals).map_err(|e| format!("the loop cannot start: {e}"))?;
    for (socket, address, redirects) in listeners {
        let scheme = if redirects || matches!(config.tls, Tls::Off) { "http" } else { "https" };
        let actual = socket.local_addr().unwrap_or(address);
        if !redirects {
            cx.port.set(actual.port());
        }
        server.listen(socket, redirects).map_err(|e| format!("{address}: {e}"))?;
        log::info!("listening on {scheme}://{actual} after {} ms", started.elapsed().as_millis());
    }
    drop(cx);
    let result = server.run().map_err(|e| format!("the loop failed: {e}"));
    let told = server.told_to_end();
    drop(server);
    db_thread.stop(told.map_or(DB_END, |at| (at + END).saturating_duration_since(Instant::now())));
    log::info!("ended");
    result
}

/// How VMs are kept apart here. Before there are threads or children: the server moves into a control group of its own.
fn isolation(config: &Config) -> (Apart, Groups) {
    let users = Users::look(config);
    match &users {
        Users::Ours(why) | Users::Refused(why) => {
            log::warn!("VMs do not run as users of their own: {why}; see vmshare check");
        }
        Users::Range(uids) => {
            log::info!("each VM runs as a user of its own (uids {} to {})", uids.start(), uids.end());
        }
    }
    let mut groups = Groups::look(config);
    let _ = groups.enter();
    match groups.place() {
        Err(why) => log::warn!("VMs are not bounded in memory and processor time: {why}; see vmshare check"),
        Ok(place) => {
            log::info!(
                "VMs are bounded in memory, processor time and threads by control groups in {}",
                place.display()
            );
            if !groups.weigh_disks() {
                log::warn!(
                    "VMs have no weight at the disk: the control groups have no io controller; see vmshare check"
                );
            }
        }
    }
    (Apart::new(users), groups)
}

/// A database that can never be right ends the program; one that is away is waited for.
fn on_db_change(state: &State) {
    match state {
        State::Ready => log::info!("database ready"),
        State::Starting(what) => log::info!("database: {what}"),
        State::Away { reason } => log::warn!("database away: {reason}"),
        State::Refused { reason } => {
            log::error!("database: {reason}");
            std::process::exit(1);
        }
    }
}

fn bind(config: &Config) -> Result<Vec<(std::net::TcpListener, SocketAddr, bool)>, String> {
    let mut sockets = Vec::new();
    let ports = [(Some(config.port), false), (config.http_port, true)];
    for (port, redirects) in ports.into_iter().filter_map(|(port, r)| port.map(|port| (port, r))) {
        let address = SocketAddr::new(config.host, port);
        let socket = sockopt::listen(address).map_err(|e| match e.kind() {
            ErrorKind::AddrInUse => {
                format!("port {port} is in use: stop what listens there, or choose another with PORT or --port")
            }
            ErrorKind::PermissionDenied => format!(
                "port {port} needs a right this user has not: choose one above 1023, or give AmbientCapabilities=CAP_NET_BIND_SERVICE"
            ),
            _ => format!("cannot listen on {address}: {e}"),
        })?;
        sockets.push((socket, address, redirects));
    }
    Ok(sockets)
}

/// `VM_BASE_DIR` and what the server keeps in it. The top is open for passing through only: PostgreSQL's own user has its
/// folder below it.
pub(super) fn prepare_folders(base: &Path) -> Result<(), String> {
    let failed = |path: &Path, e: &std::io::Error| {
        format!("{}: {e}; make it and give it to the server's user, or choose another with VM_BASE_DIR", path.display())
    };
    DirBuilder::new().recursive(true).mode(0o711).create(base).map_err(|e| failed(base, &e))?;
    std::fs::set_permissions(base, Permissions::from_mode(0o711)).map_err(|e| failed(base, &e))?;
    for name in ["uploads", "users", "runs", "images", "tls"] {
        let folder = base.join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|e| failed(&folder, &e))?;
    }
    Ok(())
}

/// The secret of the settings, or the one made at the first start.
fn secret(config: &Config) -> Result<Vec<u8>, String> {
    if let Some(secret) = &config.secret_key {
        return Ok(secret.reveal().as_bytes().to_vec());
    }
    let path = config.base_dir.join("secret");
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    match std::fs::read(&path) {
        Ok(secret) if secret.len() >= SECRET_BYTES => return Ok(secret),
        Ok(_) => return Err(format!("{}: it is too short; remove it, and everybody signs in again", path.display())),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let secret = data_encoding::HEXLOWER.encode(&crate::random::bytes::<SECRET_BYTES>()).into_bytes();
    let half = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half).map_err(failed)?;
    file.write_all(&secret).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&half, &path).map_err(failed)?;
    Ok(secret)
}

fn tls_settings(config: &Config) -> Result<Option<TlsSettings>, String> {
    let (cert, key) = match &config.tls {
        Tls::Off => return Ok(None),
        Tls::Files { cert, key } => (cert.clone(), key.clone()),
        Tls::SelfSigned => {
            let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
            if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
                names.push(host.trim().to_owned());
            }
            if !config.host.is_unspecified() {
                names.push(config.host.to_string());
            }
            names.dedup();
            tls::self_signed(&config.base_dir.join("tls"), names).map_err(|e| e.to_string())?
        }
    };
    TlsSettings::load(&cert, &key).map(Some).map_err(|e| e.to_string())
}

/// How long a command waits for the database.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
