//! A running QEMU process: its pidfd, its output, its monitor.
//!
//! Exits are told by a pidfd, not by SIGCHLD, because an adopted QEMU is not our child. Standard output and error are named pipes in its
//! folder, so they are read on by a server that takes it over; they go to the log with `vmid=`, and the last line is kept for the VM's `exit`.

use super::monitor::{Failed, Monitor};
use super::supervise::{Ration, Told};
use super::{Vmid, apart, qmp_socket, serial_socket};
use crate::house::{Cx, House, Owner};
use crate::net::line::{Flow, Line};
use crate::reactor::task::{Either, Latch, first};
use crate::sys::child::{Child, STDERR, STDOUT};
use crate::sys::fifo;
use crate::sys::pidfd::{Exit, PidFd};
use crate::sys::signal::Signal;
use crate::vm::args::Accel;
use mio::Token;
use mio::net::UnixStream;
use serde_json::Value;
use std::cell::{Cell, OnceCell, RefCell};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// Longest line kept; the rest of it is dropped.
const LINE_BYTES: usize = 1024;
/// Reads of its output, and lines taken from them, for one event.
const OUTPUT_READS: u32 = 1024;
const OUTPUT_LINES: usize = 20_000;
/// First and longest pause between attempts to connect to a socket QEMU has not made yet.
const RETRY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// How long a killed process that cannot be watched may take to be gone.
const REAP_WAIT: Duration = Duration::from_secs(5);
/// How long QEMU may take to answer somebody who waits.
const ASK_WAIT: Duration = Duration::from_secs(10);
/// Lines of a tool's output kept: a list of snapshots is long, and bounded.
const TOOL_LINES: usize = 20_000;
/// Between two turns of a serial console or a monitor that is written to without end.
const PAUSE: Duration = Duration::from_millis(5);

/// See the file's page.
pub struct Process {
    /// Names it in events.
    pub id: u64,
    /// The VM it runs.
    pub vmid: Vmid,
    /// Its process id.
    pub pid: u32,
    /// Its start time in clock ticks since boot: with the pid, a process for certain.
    pub start: u64,
    /// What executes the guest.
    pub accel: Accel,
    /// The VM's folder.
    pub run_dir: PathBuf,
    /// Its guest has a way to the internet.
    pub has_internet: Cell<bool>,
    /// The login name of the VM's owner, for the log; a tool has none.
    pub user: OnceCell<String>,
    pidfd: PidFd,
    exit_token: Cell<Option<Token>>,
    stdout: RefCell<Option<Pipe>>,
    stderr: RefCell<Option<Pipe>>,
    /// The last line it wrote, and whether that was on standard error.
    last: RefCell<Option<(bool, String)>>,
    /// Of a tool, not a QEMU: its standard output.
    answer: Option<RefCell<Vec<String>>>,
    monitor: RefCell<Option<Monitor>>,
    /// The monitor takes commands.
    negotiated: Latch<()>,
    /// Its serial console, shared by all who look at it; a QEMU that follows this one takes it over.
    pub line: RefCell<Line>,
    /// How far its console has come to the disk, and whether a story brings it there.
    pub spooled: Cell<u64>,
    /// See there.
    pub spools: Cell<bool>,
    /// A guest, or a QEMU, that writes without end has its next turn in a moment.
    serial_rests: Cell<bool>,
    monitor_rests: Cell<bool>,
    /// Set when it is gone.
    pub exit: Latch<Exit>,
    /// The guest turned itself off.
    pub guest_shutdown: Cell<bool>,
    /// QEMU said that it ends, whoever wanted it.
    pub shut_down: Cell<bool>,
    /// Bounds what its events cost.
    pub told: Told,
    /// Bounds what its lines cost in the log.
    said: Ration,
    /// KVM gave up in the middle of the guest.
    pub kvm_broke: Cell<bool>,
}

struct Pipe {
    file: File,
    token: Token,
    line: Vec<u8>,
}

impl Process {
    /// Takes a started child into the loop.
    ///
    /// # Errors
    /// No descriptor can be registered; the child is killed then.
    pub fn started(
        cx: &Cx,
        vmid: Vmid,
        child: Child,
        accel: Accel,
        run_dir: PathBuf,
    ) -> std::io::Result<std::rc::Rc<Self>> {
        let process = Self::register(cx, vmid, child.pid, child.start, child.pidfd, accel, run_dir, None)?;
        process.hear(cx, child.stdout, child.stderr);
        Ok(process)
    }

    /// Takes a short program into the loop: what it writes is kept for [`Process::answer`] and not logged.
    ///
    /// # Errors
    /// As [`Process::started`].
    pub fn tool(cx: &Cx, child: Child) -> std::io::Result<std::rc::Rc<Self>> {
        let (start, answer) = (0, Some(RefCell::default()));
        let (vmid, folder) = (Vmid::default(), PathBuf::new());
        let process = Self::register(cx, vmid, child.pid, start, child.pidfd, Accel::Tcg, folder, answer)?;
        process.hear(cx, child.stdout, child.stderr);
        Ok(process)
    }

    fn hear(&self, cx: &Cx, stdout: OwnedFd, stderr: OwnedFd) {
        self.stdout.replace(Pipe::register(cx, self, stdout, Owner::Stdout(self.id)));
        self.stderr.replace(Pipe::register(cx, self, stderr, Owner::Stderr(self.id)));
    }

    /// Takes a process that outlived a former server.
    ///
    /// # Errors
    /// It is gone, or no descriptor can be registered.
    pub fn adopted(
        cx: &Cx,
        (vmid, user): (Vmid, &str),
        pid: u32,
        start: u64,
        accel: Accel,
        run_dir: PathBuf,
    ) -> std::io::Result<std::rc::Rc<Self>> {
        let pidfd = PidFd::open(pid)?;
        // Only now the pid cannot be reused: is it still the same process?
        if !crate::sys::process::is_same_process(pid, start) {
            return Err(ErrorKind::NotFound.into());
        }
        let output = [STDOUT, STDERR].map(|name| fifo::open(&run_dir.join(name)));
        let process = Self::register(cx, vmid, pid, start, pidfd, accel, run_dir, None)?;
        let _ = process.user.set(user.to_owned());
        match output {
            [Ok(stdout), Ok(stderr)] => process.hear(cx, stdout.into(), stderr.into()),
            // One that was started by an older release has none.
            _ => log::info!(vmid:% = vmid, user = user; "what its qemu says is lost: it has no named pipes"),
        }
        Ok(process)
    }

    #[allow(clippy::too_many_arguments)]
    fn register(
        cx: &Cx,
        vmid: Vmid,
        pid: u32,
        start: u64,
        pidfd: PidFd,
        accel: Accel,
        run_dir: PathBuf,
        answer: Option<RefCell<Vec<String>>>,
    ) -> std::io::Result<std::rc::Rc<Self>> {
        let id = cx.vms.next_process_id();
        let token = match cx.io.add_fd(pidfd.as_raw_fd(), Owner::Exit(id)) {
            Ok(token) => token,
            Err(e) => {
                let _ = pidfd.send(Signal::Kill);
                // So that nothing of it is left, not even a zombie; on a thread that may wait.
                let house = std::rc::Rc::clone(cx);
                cx.spawner.spawn("reap", async move {
                    let _ = house.disk(move || pidfd.wait(REAP_WAIT).and_then(|_| pidfd.reap())).await;
                });
                return Err(e);
            }
        };
        let process = std::rc::Rc::new(Self {
            id,
            vmid,
            pid,
            start,
            accel,
            run_dir,
            has_internet: Cell::default(),
            user: OnceCell::new(),
            pidfd,
            exit_token: Cell::new(Some(token)),
            stdout: RefCell::default(),
            stderr: RefCell::default(),
            last: RefCell::default(),
            answer,
            monitor: RefCell::default(),
            negotiated: Latch::default(),
            line: RefCell::new(Line::new(cx.config.limits.serial_scrollback_kb * 1024, cx.notify())),
            spooled: Cell::new(0),
            spools: Cell::new(false),
            serial_rests: Cell::new(false),
            monitor_rests: Cell::new(false),
            exit: Latch::default(),
            guest_shutdown: Cell::new(false),
            shut_down: Cell::new(false),
            told: Told::default(),
            said: Ration::default(),
            kvm_broke: Cell::new(false),
        });
        cx.vms.insert_process(std::rc::Rc::clone(&process));
        Ok(process)
    }

    /// Connects the monitor, trying until QEMU has made its socket, and waits for QEMU to take commands. A plain wait: bound it.
    ///
    /// # Errors
    /// QEMU closed the monitor or refused to negotiate.
    pub async fn connect_monitor(&self, cx: &Cx) -> Result<(), Failed> {
        let path = qmp_socket(&self.run_dir);
        let mut pause = RETRY.0;
        let monitor = loop {
            match Monitor::connect(cx, &path, self.id, self.pid) {
                Ok(monitor) => break monitor,
                Err(_) => cx.clock.sleep(pause).await,
            }
            pause = (pause * 2).min(RETRY.1);
        };
        let greeting = monitor.greeting.clone();
        if let Some(mut old) = self.monitor.replace(Some(monitor)) {
            old.end(cx);
        }
        greeting.wait().await;
        self.send("qmp_capabilities", None).await?;
        self.negotiated.set(());
        Ok(())
    }

    /// Connects the serial console, unless it is. QEMU takes one client on it: this one.
    ///
    /// # Errors
    /// QEMU has no such socket, or its one place in the queue is taken.
    pub fn connect_serial(&self, house: &House) -> std::io::Result<()> {
        let line = self.line.borrow();
        if line.is_joined() || self.exit.get().is_some() {
            return Ok(());
        }
        let mut socket = UnixStream::connect(serial_socket(&self.run_dir))?;
        apart::is_of(&socket, self.pid)?;
        let token = house.io.add(&mut socket, Owner::Serial(self.id))?;
        line.join(socket, token);
        Ok(())
    }

    /// An event of the serial console. While it rests, only writing goes on.
    pub fn on_serial(&self, house: &House, writable: bool) {
        if writable {
            self.line.borrow().on_writable();
        }
        if !self.serial_rests.get() {
            self.read_serial(house);
        }
    }

    /// The serial console has rested.
    pub fn on_serial_rested(&self, house: &House) {
        self.serial_rests.set(false);
        self.read_serial(house);
    }

    fn read_serial(&self, house: &House) {
        let flow = self.line.borrow().receive();
        match flow {
            Flow::Blocked => {}
            Flow::More => {
                self.serial_rests.set(true);
                house.clock.at(house.now() + PAUSE, Owner::Serial(self.id));
            }
            Flow::Ended => self.end_serial(house),
        }
    }

    fn end_serial(&self, house: &House) {
        if let Some((mut socket, token)) = self.line.borrow().part() {
            house.io.remove(&mut socket, token);
        }
    }

    /// Runs a QMP command, once the monitor is connected.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn execute(&self, name: &str, arguments: Option<Value>) -> Result<Value, Failed> {
        match first(self.negotiated.wait(), self.exit.wait()).await {
            Either::First(()) => self.send(name, arguments).await,
            Either::Second(_) => Err(Failed::Ended),
        }
    }

    async fn send(&self, name: &str, arguments: Option<Value>) -> Result<Value, Failed> {
        let promise = self.monitor.borrow_mut().as_mut().and_then(|monitor| monitor.send(name, arguments));
        match promise {
            Some(promise) => promise.await.unwrap_or(Err(Failed::Ended)),
            None => Err(Failed::Ended),
        }
    }

    /// Runs a QMP command for somebody who waits: what QEMU has not answered in [`ASK_WAIT`] is [`Failed::Silent`]. It may be done yet.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn ask(&self, house: &House, name: &str, arguments: Option<Value>) -> Result<Value, Failed> {
        house.within(ASK_WAIT, self.execute(name, arguments)).await.unwrap_or(Err(Failed::Silent))
    }

    /// Sends a signal; one to a process that is gone does nothing.
    pub fn signal(&self, signal: Signal) {
        if self.exit.get().is_none() {
            let _ = self.pidfd.send(signal);
        }
    }

    /// The login name of the VM's owner, for the log.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.user.get().map_or("", String::as_str)
    }

    /// The last line it wrote, for people.
    #[must_use]
    pub fn last_line(&self) -> Option<String> {
        self.last.borrow().as_ref().map(|(_, line)| line.clone())
    }

    /// What a tool wrote.
    #[must_use]
    pub fn answer(&self) -> String {
        self.answer.as_ref().map(|lines| lines.borrow().join("\n")).unwrap_or_default()
    }

    /// An event of the monitor's socket. While it rests, only writing goes on.
    pub fn on_monitor(self: &std::rc::Rc<Self>, cx: &Cx) {
        if let Some(monitor) = self.monitor.borrow_mut().as_mut() {
            monitor.on_writable();
        }
        if !self.monitor_rests.get() {
            self.read_monitor(cx);
        }
    }

    /// The monitor has rested.
    pub fn on_monitor_rested(self: &std::rc::Rc<Self>, cx: &Cx) {
        self.monitor_rests.set(false);
        self.read_monitor(cx);
    }

    fn read_monitor(self: &std::rc::Rc<Self>, cx: &Cx) {
        let mut events = Vec::new();
        let more = self
            .monitor
            .borrow_mut()
            .as_mut()
            .is_some_and(|it| it.receive(cx, (self.vmid, self.owner()), |event| events.push(event)));
        if more {
            self.monitor_rests.set(true);
            cx.clock.at(cx.now() + PAUSE, Owner::Qmp(self.id));
        }
        for event in events {
            super::supervise::on_event(cx, self, &event);
        }
    }

    /// An event of a pipe.
    pub fn on_output(&self, house: &House, which: &Owner) {
        let pipe = if matches!(which, Owner::Stdout(_)) { &self.stdout } else { &self.stderr };
        let mut lines = Vec::new();
        let mut slot = pipe.borrow_mut();
        if slot.as_mut().is_some_and(|pipe| pipe.read(&mut lines))
            && let Some(pipe) = slot.take()
        {
            house.io.remove_fd(pipe.file.as_raw_fd(), pipe.token);
            lines.extend((!pipe.line.is_empty()).then_some(pipe.line));
        }
        drop(slot);
        for line in lines {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(answer) = self.answer.as_ref().filter(|_| matches!(which, Owner::Stdout(_))) {
                if answer.borrow().len() < TOOL_LINES {
                    answer.borrow_mut().push(line);
                }
            } else if !line.is_empty() {
                let (room, dropped) = self.said.take(house.now());
                if dropped > 0 {
                    log::warn!(vmid:% = self.vmid, user = self.owner(); "qemu: {dropped} lines are not in the log: too many at once");
                }
                if room {
                    log::info!(vmid:% = self.vmid, user = self.owner(); "qemu: {line}");
                }
                // Why it ended, it says on standard error; the other only counts where that was silent.
                let is_error = matches!(which, Owner::Stderr(_));
                let mut last = self.last.borrow_mut();
                if is_error || !last.as_ref().is_some_and(|(was_error, _)| *was_error) {
                    last.replace((is_error, line));
                }
            }
        }
    }

    /// The pidfd says that it is gone.
    pub fn on_exit(self: &std::rc::Rc<Self>, house: &Cx) {
        let exit = match self.pidfd.reap() {
            Ok(Some(exit)) => exit,
            Ok(None) => return,
            Err(e) => {
                log::error!(vmid:% = self.vmid, user = self.owner(); "qemu (pid {}) cannot be reaped: {e}", self.pid);
                Exit::Unknown
            }
        };
        // Its last words are still in the pipes.
        self.on_output(house, &Owner::Stdout(self.id));
        self.on_output(house, &Owner::Stderr(self.id));
        // A SHUTDOWN event may wait unread.
        self.read_monitor(house);
        if let Some(mut monitor) = self.monitor.borrow_mut().take() {
            monitor.end(house);
        }
        // So may the guest's last words.
        while self.line.borrow().receive() == Flow::More {}
        self.end_serial(house);
        for pipe in [&self.stdout, &self.stderr] {
            if let Some(pipe) = pipe.borrow_mut().take() {
                house.io.remove_fd(pipe.file.as_raw_fd(), pipe.token);
            }
        }
        if let Some(token) = self.exit_token.take() {
            house.io.remove_fd(self.pidfd.as_raw_fd(), token);
        }
        house.vms.remove_process(self.id);
        house.sampler.remove(self.pid);
        self.exit.set(exit);
    }
}

impl Pipe {
    fn register(house: &House, of: &Process, fd: OwnedFd, owner: Owner) -> Option<Self> {
        let file = File::from(fd);
        match house.io.add_fd(file.as_raw_fd(), owner) {
            Ok(token) => Some(Self { file, token, line: Vec::new() }),
            Err(e) => {
                log::error!(vmid:% = of.vmid, user = of.owner(); "qemu's output cannot be watched: {e}");
                None
            }
        }
    }

    /// Reads what is there into whole lines; true at the end of the pipe. What comes beyond a bound is dropped, unread in the end:
    /// QEMU says little, and one that writes without end must not keep the loop.
    fn read(&mut self, lines: &mut Vec<Vec<u8>>) -> bool {
        let mut buffer = [0; 4096];
        for _ in 0..OUTPUT_READS {
            match self.file.read(&mut buffer) {
                Ok(0) => return true,
                Ok(count) => {
                    for &byte in buffer.get(..count).unwrap_or_default() {
                        if byte == b'\n' && lines.len() < OUTPUT_LINES {
                            lines.push(std::mem::take(&mut self.line));
                        } else if self.line.len() < LINE_BYTES {
                            self.line.push(byte);
                        }
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        // It is not read any more: QEMU gets an error, and what it said before is what counts.
        true
    }
}
