//! The private cluster: PostgreSQL as a child of ours, below `VM_BASE_DIR/postgres`, over a unix socket only.
//!
//! ```text
//! postgres/        0700, of the user PostgreSQL runs as
//!   data/          the cluster; made as data.new and renamed, so a killed initdb is not taken for one
//!   run/           the socket; the folder's mode is the guard, authentication is `trust`
//!   log            what it says
//! ```
//! PostgreSQL refuses to run as root, so under root it runs as `postgres` (or `nobody`); `VM_BASE_DIR` must let that user pass. It is in a
//! process group of its own and outlives a server that is killed: the next one finds it by `postmaster.pid` and takes it over.
//! Whoever runs it stops it at the end with SIGINT (fast shutdown).

use crate::sys::child::set_apart;
use crate::sys::pidfd::PidFd;
use crate::sys::signal::Signal;
use crate::sys::user::{euid, has_name, lookup_user};
use postgres::{Client, Config, NoTls};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Users that PostgreSQL may run as when we are root.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// The role and the database.
const NAME: &str = "vmshare";
/// Oldest major version.
const OLDEST: u32 = 14;
/// How long a start may take (recovery after a crash included).
const START: Duration = Duration::from_secs(60);
/// How long a fast shutdown may take, then an immediate one, which costs the next start a recovery. Together below the 10 s in which a
/// server must end.
const STOP: [(Signal, Duration); 2] =
    [(Signal::Interrupt, Duration::from_secs(5)), (Signal::Quit, Duration::from_secs(3))];
/// Between looks while it starts or stops.
const LOOK: Duration = Duration::from_millis(10);
/// The log is begun anew above this size.
const LOG_MAX: u64 = 10 << 20;
/// Longest path of a folder in which PostgreSQL's socket still fits (unix(7)).
const SOCKET_FOLDER_MAX: usize = 107 - "/.s.PGSQL.5432".len();
/// Small: a few connections, little memory.
const OPTIONS: [&str; 10] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "shared_buffers=16MB",
    "max_connections=20",
    "max_wal_senders=0",
    "wal_level=minimal",
    "max_logical_replication_workers=0",
    "autovacuum_max_workers=1",
    "max_wal_size=256MB",
    "log_min_messages=warning",
];

/// A cluster that runs, started by us or found running.
pub struct Cluster {
    bin: PathBuf,
    folder: PathBuf,
    user: Option<(u32, u32)>,
    child: Option<Child>,
}

impl Cluster {
    /// Makes what is missing of the cluster; does not start it.
    ///
    /// # Errors
    /// What is missing on this host and how to mend it.
    pub fn prepare(base: &Path, bin: Option<&Path>) -> Result<Self, String> {
        let base = base.canonicalize().map_err(|e| format!("{}: {e}", base.display()))?;
        let bin = find_programs(bin)?;
        let folder = base.join("postgres");
        let user = match euid() {
            // A command that root gives must not take it from the server's user, whose folder it lies in before it is there. A user
            // without a name is none to initdb.
            0 => {
                let server = || owner(&base).filter(|(uid, _)| has_name(*uid));
                Some(owner(&folder).or_else(server).map_or_else(find_user, Ok)?)
            }
            _ => None,
        };
        let cluster = Self { bin, folder, user, child: None };
        let run = cluster.run_dir();
        if run.as_os_str().len() > SOCKET_FOLDER_MAX {
            return Err(format!("{} is too long a path for a socket: choose a shorter VM_BASE_DIR", run.display()));
        }
        let own = |path: &Path| -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            fs::set_permissions(path, Permissions::from_mode(0o700))?;
            user.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid)))
        };
        own(&cluster.folder).and_then(|()| own(&run)).map_err(|e| format!("{}: {e}", cluster.folder.display()))?;
        cluster.check_version()?;
        Ok(cluster)
    }

    /// Starts it, or takes a running one over, and waits until it answers. Does nothing when it answers.
    ///
    /// # Errors
    /// Its last words.
    pub fn ensure(&mut self) -> Result<(), String> {
        if self.answers() {
            return Ok(());
        }
        if !self.data_dir().join("PG_VERSION").exists() {
            self.init()?;
        }
        let mut started = false;
        let deadline = Instant::now() + START;
        loop {
            if self.answers() {
                return Ok(());
            }
            let ended = match &mut self.child {
                Some(child) => child.try_wait().map_err(|e| e.to_string())?.is_some(),
                None => true,
            };
            // One of a former server may be starting or recovering: it is waited for, not doubled.
            if ended && self.postmaster().is_none() {
                if started {
                    return Err(format!("PostgreSQL does not start: {}", self.last_words()));
                }
                self.start()?;
                started = true;
            }
            if Instant::now() > deadline {
                return Err(format!("PostgreSQL does not answer after {} s: {}", START.as_secs(), self.last_words()));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// True when a postmaster of this cluster lives.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.postmaster().is_some()
    }

    /// True when it was started by this program and not found running.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.child.is_some()
    }

    /// How to connect.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(self.run_dir()).user(NAME).dbname(NAME);
        config.options("-c statement_timeout=2500 -c lock_timeout=2000 -c timezone=UTC");
        config.application_name(NAME).connect_timeout(Duration::from_secs(5));
        config
    }

    /// Stops it: fast, then at once. Bounded.
    pub fn stop(&mut self) {
        let Some(pid) = self.postmaster() else { return };
        let Ok(process) = PidFd::open(pid) else { return };
        for (signal, limit) in STOP {
            let _ = process.send(signal);
            let deadline = Instant::now() + limit;
            while Instant::now() < deadline {
                if let Some(child) = &mut self.child {
                    // Reaped, or it stays a zombie that looks alive.
                    let _ = child.try_wait();
                }
                if process.has_exited().unwrap_or(true) {
                    self.child = None;
                    return;
                }
                std::thread::park_timeout(LOOK);
            }
        }
        log::error!("PostgreSQL (pid {pid}) does not stop");
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn answers(&self) -> bool {
        self.config().connect_timeout(Duration::from_secs(2)).connect(NoTls).is_ok()
    }

    /// The live postmaster of this cluster.
    fn postmaster(&self) -> Option<u32> {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let pid: u32 = lines.next()?.trim().parse().ok()?;
        let same = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let data = self.data_dir();
        // A number from before a reboot may belong to anybody.
        String::from_utf8_lossy(&same).split('\0').any(|arg| Path::new(arg) == data).then_some(pid)
    }

    fn check_version(&self) -> Result<(), String> {
        let Ok(text) = fs::read_to_string(self.data_dir().join("PG_VERSION")) else { return Ok(()) };
        let (data, program) = (text.trim().parse::<u32>().unwrap_or(0), major(&self.bin)?);
        if data == program {
            return Ok(());
        }
        Err(format!(
            "the cluster in {} is of PostgreSQL {data}, the programs in {} are {program}: set POSTGRES_BIN_DIR to those of {data}, \
             or dump it with them and load the dump into a new one",
            self.folder.display(),
            self.bin.display()
        ))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        set_apart(&mut command, self.user);
        command
    }

    fn init(&self) -> Result<(), String> {
        log::info!("making a database cluster in {}", self.folder.display());
        let new = self.folder.join("data.new");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(|e| format!("{}: {e}", new.display()))?;
        }
        let mut command = self.command("initdb");
        command.arg("-D").arg(&new).args(["-A", "trust", "-U", NAME, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
        let output = command.output().map_err(|e| format!("initdb: {e}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("initdb failed: {}", said.lines().last().unwrap_or("without a word")));
        }
        fs::rename(&new, self.data_dir()).map_err(|e| format!("{}: {e}", self.data_dir().display()))
    }

    fn start(&mut self) -> Result<(), String> {
        let log = self.open_log().map_err(|e| format!("{}: {e}", self.log_file().display()))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data_dir()).arg("-k").arg(self.run_dir());
        for option in OPTIONS {
            command.arg("-c").arg(option);
        }
        let child = command.stdout(Stdio::null()).stderr(log).spawn().map_err(|e| format!("postgres: {e}"))?;
        self.child = Some(child);
        self.create_database()
    }

    /// The first start has only PostgreSQL's own databases.
    fn create_database(&mut self) -> Result<(), String> {
        let mut config = self.config();
        config.dbname("postgres");
        let deadline = Instant::now() + START;
        loop {
            // It may be refused for a moment, while PostgreSQL itself looks into the template: that passes.
            match config.connect(NoTls).and_then(|mut client| create_if_missing(&mut client)) {
                Ok(()) => return Ok(()),
                Err(e) => {
                    let child = self.child.as_mut().map(Child::try_wait);
                    if matches!(child, Some(Ok(Some(_)))) {
                        return Err(format!("PostgreSQL does not start: {}", self.last_words()));
                    }
                    if Instant::now() > deadline {
                        let why = e.as_db_error().map_or_else(|| e.to_string(), |db| db.message().to_owned());
                        return Err(format!("PostgreSQL does not answer: {why}"));
                    }
                }
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn open_log(&self) -> io::Result<File> {
        let path = self.log_file();
        let large = fs::metadata(&path).is_ok_and(|about| about.len() > LOG_MAX);
        OpenOptions::new().create(true).write(true).append(!large).truncate(large).open(path)
    }

    fn last_words(&self) -> String {
        let text = fs::read(self.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().rfind(|line| !line.is_empty()).unwrap_or("it said nothing").to_owned()
    }
}

fn create_if_missing(client: &mut Client) -> Result<(), postgres::Error> {
    let there = client.query_opt("select 1 from pg_database where datname = $1", &[&NAME])?;
    if there.is_none() {
        client.batch_execute(&format!("create database {NAME}"))?;
    }
    Ok(())
}

/// Whose it is, if that is not root.
fn owner(path: &Path) -> Option<(u32, u32)> {
    path.metadata().ok().map(|about| (about.uid(), about.gid())).filter(|(uid, _)| *uid != 0)
}

fn find_user() -> Result<(u32, u32), String> {
    for name in USERS {
        match lookup_user(name) {
            Ok(Some(ids)) => return Ok(ids),
            Ok(None) => {}
            Err(e) => return Err(format!("the user {name} cannot be looked up: {e}")),
        }
    }
    Err("PostgreSQL does not run as root, and there is neither a user postgres nor nobody: useradd --system postgres"
        .into())
}

/// Why there can be no private cluster on this host.
#[must_use]
pub fn missing(bin_dir: Option<&Path>) -> Option<String> {
    find_programs(bin_dir).err()
}

/// The folder of `initdb` and `postgres`: the one that is set, the newest of Debian's, which are not on PATH, then PATH.
fn find_programs(set: Option<&Path>) -> Result<PathBuf, String> {
    let both = |folder: &Path| folder.join("initdb").exists() && folder.join("postgres").exists();
    if let Some(folder) = set {
        return if both(folder) {
            Ok(folder.to_owned())
        } else {
            Err(format!("POSTGRES_BIN_DIR={}: there is no initdb and postgres in it", folder.display()))
        };
    }
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(version, folder)| *version >= OLDEST && both(folder))
        .collect();
    debian.sort();
    if let Some((_, folder)) = debian.pop() {
        return Ok(folder);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find(|folder| both(folder)).ok_or_else(|| {
        "PostgreSQL's server programs are not installed: apt-get install postgresql, or set DATABASE_URL or POSTGRES_BIN_DIR".into()
    })
}

fn major(bin: &Path) -> Result<u32, String> {
    let output = Command::new(bin.join("postgres")).arg("--version").output();
    let output = output.map_err(|e: io::Error| match e.kind() {
        ErrorKind::NotFound => format!("{}: there is no postgres", bin.display()),
        _ => format!("{}: {e}", bin.display()),
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok());
    number.ok_or_else(|| format!("{} does not say its version: {text}", bin.join("postgres").display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_of_root_leaves_a_cluster_to_its_owner() {
        if euid() != 0 {
            return;
        }
        let base = tempfile::tempdir().unwrap();
        let (folder, run) = (base.path().join("postgres"), base.path().join("postgres/run"));
        fs::create_dir_all(&folder).unwrap();
        for (uid, kept) in [(Some(4711), true), (Some(0), false)] {
            chown(&folder, uid, uid).unwrap();
            let cluster = Cluster::prepare(base.path(), None).unwrap();
            assert_eq!(cluster.user == Some((4711, 4711)), kept);
            assert_eq!(run.metadata().unwrap().uid() == 4711, kept);
        }
        let daemon = lookup_user("daemon").unwrap().unwrap();
        for (owner, expected) in [(daemon, daemon), ((4711, 4711), find_user().unwrap())] {
            fs::remove_dir_all(&folder).unwrap();
            chown(base.path(), Some(owner.0), Some(owner.1)).unwrap();
            assert_eq!(Cluster::prepare(base.path(), None).unwrap().user, Some(expected), "in a folder of {owner:?}");
            assert_eq!(run.metadata().unwrap().uid(), expected.0);
        }
    }
}
