//! The server: owns every socket, and turns.
//!
//! This is the one file that knows both the loop and what runs on it. A turn is, in this order:
//!
//! 1. **wait** for events, at most until the next deadline; not at all while work was carried over. `now` is set once.
//! 2. **dispatch** the events to their owners. Owners move bytes; a whole request becomes a task.
//! 3. **timers**: owners whose deadline has come look at their clocks; sleeping stories are woken. After the events, so that bytes that
//!    came in time count.
//! 4. **carried**: connections that used up their quantum in the last turn go on, after those that had none yet.
//! 5. **stories** run. After the events, because events wake them; before answers, because they make them.
//! 6. **answers and orders**: responses are written, screens are closed, until no story has more to say.
//! 7. **bury** what ended, last, so that nobody looks for it in this turn.
//!
//! Panics: a connection or a story that panics ends alone (caught at its boundary), is counted, and the log has it.

mod reply;

use crate::house::{Cx, Order, Owner, Which};
use crate::net::Scratch;
use crate::net::conn::{Bounds, Conn, Outcome, Request};
use crate::net::relay::End;
use crate::net::response::Response;
use crate::net::stream::Stream;
use crate::reactor::pulse::{Pulse, Slow, SlowTurns};
use crate::reactor::task::{Cancel, Tasks};
use crate::reactor::{Due, Reactor, Ready};
use crate::sys::signal::{Signal, SignalFd};
use crate::sys::sockopt;
use crate::vm::scroll;
use crate::web::throttle::household;
use crate::web::{self, Req};
use mio::Token;
use mio::net::{TcpListener, TcpStream};
use reply::{Reply, guarded};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Connections accepted in one turn of one listener.
const ACCEPTS: usize = 256;
/// Polls of stories in one turn.
const POLLS: usize = 1024;
/// Pause of a listener that got no descriptor: enough for others to close, short for who waits.
const EMFILE_PAUSE: Duration = Duration::from_millis(100);
/// How long an ordered end may take.
const DRAIN: Duration = Duration::from_secs(7);

/// A listening socket.
struct Listening {
    socket: TcpListener,
    token: Token,
    /// It only sends people to the TLS port.
    redirects: bool,
    /// Accepting goes on at this time; no descriptor was left.
    paused: Option<Instant>,
}

struct Open {
    conn: Conn,
    token: Token,
    /// The earliest entry in the heap of timers.
    armed: Option<Instant>,
    /// Its entries in that heap end with it.
    life: Rc<()>,
    pending: Option<Pending>,
}

/// What the access log tells of a request, and how its story learns that the asker left.
struct Pending {
    req: String,
    line: String,
    since: Instant,
    gone: Cancel,
}

type Answers = Rc<RefCell<Vec<(u64, Response)>>>;

/// See the file's page.
pub struct Server {
    reactor: Reactor<Owner>,
    tasks: Tasks,
    cx: Cx,
    listeners: Vec<Listening>,
    conns: HashMap<u64, Open>,
    next_conn: u64,
    per_ip: HashMap<IpAddr, usize>,
    answers: Answers,
    carried: HashSet<u64>,
    pulse: Pulse,
    slow: SlowTurns,
    ready: Vec<(Owner, Ready)>,
    scratch: Scratch,
    bounds: Rc<Bounds>,
    signals: SignalFd,
    /// Set by the first SIGTERM: when to end at the latest.
    told: Option<Instant>,
    ending: Option<Instant>,
    /// The date header, and the second it is for.
    date: (i64, String),
}

impl Server {
    /// Takes what `cli::serve` built.
    ///
    /// # Errors
    /// A descriptor cannot be registered.
    pub fn new(reactor: Reactor<Owner>, tasks: Tasks, cx: Cx, signals: SignalFd) -> std::io::Result<Self> {
        use std::os::fd::AsRawFd;
        reactor.io().add_fd(signals.as_raw_fd(), Owner::Signals)?;
        let limits = &cx.config.limits;
        let seconds = Duration::from_secs;
        let bounds = Rc::new(Bounds {
            head: crate::proto::http::reader::Limits { head_bytes: limits.head_bytes, ..Default::default() },
            body_bytes: limits.body_bytes,
            head_time: seconds(limits.header_seconds),
            body_time: seconds(limits.body_seconds),
            idle_time: seconds(limits.idle_seconds),
            write_time: seconds(limits.write_seconds),
            stall_time: seconds(limits.upload_stall_seconds),
            admit: web::admit,
            notify: cx.notify(),
        });
        Ok(Self {
            reactor,
            tasks,
            cx,
            listeners: Vec::new(),
            conns: HashMap::new(),
            next_conn: 1,
            per_ip: HashMap::new(),
            answers: Answers::default(),
            carried: HashSet::new(),
            pulse: Pulse::default(),
            slow: SlowTurns::default(),
            ready: Vec::new(),
            scratch: Scratch::default(),
            bounds,
            signals,
            told: None,
            ending: None,
            date: (0, String::new()),
        })
    }

    /// Adds a bound socket.
    ///
    /// # Errors
    /// It cannot be registered.
    pub fn listen(&mut self, socket: std::net::TcpListener, redirects: bool) -> std::io::Result<()> {
        socket.set_nonblocking(true)?;
        let mut socket = TcpListener::from_std(socket);
        let token = self.reactor.io().add(&mut socket, Owner::Listener(self.listeners.len()))?;
        self.listeners.push(Listening { socket, token, redirects, paused: None });
        Ok(())
    }

    /// Turns until told to end.
    ///
    /// # Errors
    /// The poll itself fails: nothing can go on.
    pub fn run(&mut self) -> std::io::Result<()> {
        // Where the rights are there: 500 desktops wait for this thread, and it is seldom busy for long.
        let _ = crate::sys::priority::step_forward();
        while !self.is_over() {
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> std::io::Result<()> {
        let due = self.cx.clock.next_deadline();
        let until = if self.carried.is_empty() { due } else { Some(self.cx.now()) };
        let mut ready = std::mem::take(&mut self.ready);
        let tasks = &self.tasks;
        let now = self.reactor.wait(until, || tasks.is_quiet(), &mut ready)?;
        self.pulse.begin(now);
        self.cx.clock.set_now(now);
        if let Some(late) = due.and_then(|due| now.checked_duration_since(due)) {
            self.cx.metrics.lag_seconds.observe(late);
        }
        let carried = std::mem::take(&mut self.carried);
        for (owner, ready) in ready.drain(..) {
            self.dispatch(owner, ready);
            self.pulse.done(owner.named());
        }
        self.ready = ready;
        while let Some(Due(owner)) = self.cx.clock.pop_due() {
            self.on_due(owner);
            self.pulse.done(owner.named());
        }
        for id in carried {
            self.pump(id);
            self.pulse.done(("connection", id));
        }
        self.run_stories();
        self.look_back();
        Ok(())
    }

    /// How long the turn was; one that kept everybody waiting is told with what took so long.
    fn look_back(&mut self) {
        let turn = self.pulse.end();
        let story = self.tasks.take_slowest();
        if self.cx.metrics.turn(turn.took, self.cx.now())
            && let Some(line) = self.slow.see(Slow { turn, story }, self.cx.now())
        {
            let (kind, id) = turn.slowest;
            log::warn!(owner = kind, id = id; "a turn of the loop took {line}");
        }
    }

    fn dispatch(&mut self, owner: Owner, ready: Ready) {
        match owner {
            Owner::Listener(index) => self.accept(index),
            Owner::Conn(id) => {
                if let Some(open) = self.conns.get_mut(&id) {
                    open.conn.stream().set_ready(ready.readable, ready.writable);
                    if ready.read_closed {
                        open.conn.peer_closed();
                        if let Some(pending) = &open.pending {
                            pending.gone.set();
                        }
                    }
                    self.pump(id);
                }
            }
            Owner::Back(id) => {
                if let Some((relay, _)) = self.conns.get_mut(&id).and_then(|open| open.conn.relay()) {
                    relay.set_back_ready(ready.readable, ready.writable);
                    self.pump(id);
                }
            }
            Owner::Qmp(id) => self.with_process(id, |cx, process| process.on_monitor(cx)),
            Owner::Serial(id) => self.with_process(id, |cx, process| {
                process.on_serial(cx, ready.writable);
                scroll::note(cx, process);
            }),
            Owner::Stdout(id) | Owner::Stderr(id) => {
                self.with_process(id, |cx, process| process.on_output(cx, &owner));
            }
            Owner::Exit(id) => self.with_process(id, |cx, process| process.on_exit(cx)),
            Owner::Signals => {
                while let Some(signal) = self.signals.read() {
                    self.on_signal(signal);
                }
            }
        }
    }

    fn with_process(&self, id: u64, act: impl FnOnce(&Cx, &Rc<crate::vm::process::Process>)) {
        if let Some(process) = self.cx.vms.process(id) {
            act(&self.cx, &process);
        }
    }

    fn on_due(&mut self, owner: Owner) {
        match owner {
            Owner::Listener(index) => {
                if let Some(listening) = self.listeners.get_mut(index) {
                    listening.paused = None;
                    self.accept(index);
                }
            }
            Owner::Conn(id) => {
                let now = self.cx.now();
                let Some(open) = self.conns.get_mut(&id) else { return };
                open.armed = None;
                if open.conn.on_timeout(now) { self.pump(id) } else { self.bury(id) }
            }
            Owner::Serial(id) => self.with_process(id, |cx, process| {
                process.on_serial_rested(cx);
                scroll::note(cx, process);
            }),
            Owner::Qmp(id) => self.with_process(id, |cx, process| process.on_monitor_rested(cx)),
            _ => {}
        }
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS {
            let Some(listening) = self.listeners.get_mut(index) else { return };
            if listening.paused.is_some() || self.ending.is_some() {
                return;
            }
            match listening.socket.accept() {
                Ok((socket, peer)) => {
                    let redirects = listening.redirects;
                    self.open(socket, peer.ip().to_canonical(), redirects);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                // The peer gave up while it waited; the next one may not have.
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    // EMFILE, ENFILE, ENOBUFS: the connection stays in the backlog. No event will tell when there is room, and
                    // trying again at once would spin.
                    log::warn!("connections wait, none can be accepted now: {e}");
                    self.cx.metrics.refused.add(1);
                    let until = self.cx.now() + EMFILE_PAUSE;
                    listening.paused = Some(until);
                    return self.cx.clock.at(until, Owner::Listener(index));
                }
            }
        }
        // More may wait, and the edge was spent.
        self.listeners[index].paused = Some(self.cx.now());
        self.cx.clock.at(self.cx.now(), Owner::Listener(index));
    }

    fn open(&mut self, mut socket: TcpStream, peer: IpAddr, redirects: bool) {
        let limits = &self.cx.config.limits;
        let from_peer = self.per_ip.get(&household(peer)).copied().unwrap_or(0);
        let too_many = self.conns.len() >= limits.max_connections
            || (limits.connections_per_ip > 0 && from_peer >= limits.connections_per_ip);
        if too_many {
            // Closing says it sooner than a TLS handshake would, and costs nothing.
            return self.cx.metrics.refused.add(1);
        }
        let _ = socket.set_nodelay(true);
        let _ = sockopt::set_not_sent_low_water(&socket, sockopt::NOT_SENT_LOW_WATER);
        let _ = sockopt::set_keep_alive(&socket);
        let tls = if redirects { None } else { self.cx.tls.as_ref() };
        let tls = match tls.map(crate::net::tls::TlsSettings::accept).transpose() {
            Ok(tls) => tls,
            Err(e) => return log::error!("TLS: {e}"),
        };
        let id = self.next_conn;
        self.next_conn += 1;
        let token = match self.reactor.io().add(&mut socket, Owner::Conn(id)) {
            Ok(token) => token,
            Err(e) => return log::warn!("a connection cannot be watched: {e}"),
        };
        let now = self.cx.now();
        let conn = Conn::new(id, Stream::new(socket, tls, now), peer, redirects, Rc::clone(&self.bounds), now);
        self.conns.insert(id, Open { conn, token, armed: None, life: Rc::default(), pending: None });
        *self.per_ip.entry(household(peer)).or_default() += 1;
        self.cx.metrics.accepted.add(1);
        self.cx.metrics.connections.set(self.conns.len() as u64);
        // Its first bytes have often come with it; when they have not, the socket says so and an event follows.
        self.pump(id);
    }

    /// Lets a connection move bytes; a panic in it ends it alone.
    fn pump(&mut self, id: u64) {
        let now = self.cx.now();
        let Some(open) = self.conns.get_mut(&id) else { return };
        let scratch = &mut self.scratch;
        match guarded(&self.cx.metrics, || open.conn.pump(scratch, now)) {
            Some(Outcome::Idle) => self.arm(id),
            Some(Outcome::More) => {
                self.carried.insert(id);
                self.arm(id);
            }
            Some(Outcome::Request(request)) => self.begin(id, request),
            Some(Outcome::Closed) | None => self.bury(id),
        }
    }

    fn arm(&mut self, id: u64) {
        let Some(open) = self.conns.get_mut(&id) else { return };
        let Some(at) = open.conn.next_timeout() else { return };
        if open.armed.is_none_or(|armed| at < armed) {
            open.armed = Some(at);
            self.cx.clock.at_while(at, Owner::Conn(id), &open.life);
        }
    }

    /// A whole request: it becomes a story.
    fn begin(&mut self, id: u64, request: Request) {
        let Some(open) = self.conns.get_mut(&id) else { return };
        let (peer, redirects, over_tls) = (open.conn.peer, open.conn.redirects, open.conn.stream().is_tls());
        let (ip, secure) = web::proxy::origin(&self.cx.config, &request.head, peer, over_tls);
        let gone = Cancel::default();
        let name = data_encoding::HEXLOWER.encode(&crate::random::bytes::<4>());
        open.pending = Some(Pending {
            req: name.clone(),
            line: format!("{} {} {}", ip, request.head.method, request.head.path),
            since: self.cx.now(),
            gone: gone.clone(),
        });
        if redirects {
            let response = web::proxy::to_tls(self.cx.port.get(), &request.head);
            self.answers.borrow_mut().push((id, response));
            return;
        }
        let Request { head, body, incoming } = request;
        let (caller, params) = (std::cell::OnceCell::new(), Vec::new());
        let req = Req { id: name, head, body, incoming, ip, secure, gone, caller, params };
        let reply = Reply { answers: Rc::clone(&self.answers), id: Some(id) };
        let cx = Rc::clone(&self.cx);
        let found = web::find(&req.head);
        // An operator sees stories by their names.
        let name = found.as_ref().ok().and_then(Option::as_ref).map_or("page", |(route, _)| route.path);
        self.tasks.spawner().spawn(name, async move { reply.give(web::answer(cx, req, found).await) });
    }

    /// Runs stories and does what they ask for, until nothing more comes of it.
    fn run_stories(&mut self) {
        loop {
            let (_, panicked) = self.tasks.run_ready(self.cx.now(), POLLS);
            self.pulse.done(("stories", 0));
            for name in panicked {
                self.cx.metrics.panics.add(1);
                log::error!("the story {name:?} panicked and was ended");
            }
            let answers = std::mem::take(&mut *self.answers.borrow_mut());
            let orders = std::mem::take(&mut *self.cx.orders.borrow_mut());
            if answers.is_empty() && orders.is_empty() {
                return;
            }
            for (id, response) in answers {
                self.respond(id, response);
                self.pulse.done(("answer", id));
            }
            for order in orders {
                self.obey(order);
                self.pulse.done(("order", 0));
            }
        }
    }

    fn respond(&mut self, id: u64, mut response: Response) {
        let now = self.cx.now();
        self.refresh_date();
        let Some(open) = self.conns.get_mut(&id) else { return };
        let Some(pending) = open.pending.take() else { return };
        self.cx.metrics.response(response.status);
        let about = std::mem::take(&mut response.about);
        let (status, bytes) = match response.upgrade.take() {
            Some(mut relay) => {
                if let Some((back, token)) = relay.back() {
                    match self.reactor.io().add(back, Owner::Back(id)) {
                        Ok(new) => *token = Some(new),
                        Err(e) => {
                            log::error!("a screen's connection cannot be watched: {e}");
                            return self.bury(id);
                        }
                    }
                }
                relay.attach(id);
                open.conn.become_relay(relay, &response.headers, now, &self.date.1);
                (101, 0)
            }
            None => {
                if let crate::net::response::Body::Events(feed) = &response.body {
                    feed.attach(id);
                }
                let sent = open.conn.respond(response, self.ending.is_some(), now, &self.date.1);
                (sent.status, sent.bytes)
            }
        };
        reply::log_answer(&pending.req, &about, || {
            format!("{} {status} {bytes} {:.1}ms", pending.line, (now - pending.since).as_secs_f64() * 1000.0)
        });
        self.pump(id);
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Write(id) => self.pump(id),
            Order::End(which, end) => {
                let now = self.cx.now();
                let matches = |open: &mut Open| {
                    open.conn.relay().is_some_and(|(relay, _)| match &which {
                        Which::Vm(vmid) => relay.ticket().group == vmid.number(),
                        Which::Sessions(tokens) => tokens.contains(&relay.ticket().session),
                        Which::Viewer(vmid, id) => {
                            relay.ticket().group == vmid.number() && relay.ticket().viewer == *id
                        }
                    })
                };
                let ids: Vec<u64> =
                    self.conns.iter_mut().filter_map(|(id, open)| matches(open).then_some(*id)).collect();
                for id in ids {
                    if let Some(open) = self.conns.get_mut(&id) {
                        open.conn.end(end.clone(), now);
                    }
                    self.pump(id);
                }
            }
        }
    }

    /// Forgets a connection; what it held is dropped with it.
    fn bury(&mut self, id: u64) {
        let Some(mut open) = self.conns.remove(&id) else { return };
        self.carried.remove(&id);
        if let Some(pending) = &open.pending {
            pending.gone.set();
            log::info!(target: "vmshare::access", req = pending.req.as_str();
                "{} - the client left after {:.1}ms", pending.line, (self.cx.now() - pending.since).as_secs_f64() * 1000.0);
        }
        let io = self.reactor.io();
        if let Some((back, token)) = open.conn.relay().and_then(|(relay, _)| relay.back())
            && let Some(token) = token.take()
        {
            io.remove(back, token);
        }
        io.remove(open.conn.stream().socket(), open.token);
        let household = household(open.conn.peer);
        if let Some(count) = self.per_ip.get_mut(&household) {
            *count -= 1;
            if *count == 0 {
                self.per_ip.remove(&household);
            }
        }
        self.cx.metrics.connections.set(self.conns.len() as u64);
    }

    /// When this server was told to end, if it was.
    #[must_use]
    pub fn told_to_end(&self) -> Option<Instant> {
        self.told
    }

    fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Hangup => web::proxy::reload_certificate(&self.cx),
            Signal::User1 => self.dump(),
            Signal::Terminate | Signal::Interrupt if self.ending.is_none() => self.begin_end(),
            Signal::Terminate | Signal::Interrupt => {
                log::warn!("told to end twice: ending at once");
                self.ending = Some(self.cx.now());
            }
            _ => {}
        }
    }

    /// Stops accepting, finishes requests, tells pages; VMs go on unless the settings say otherwise.
    fn begin_end(&mut self) {
        log::info!("ending: no new connections, {} open, {} VMs", self.conns.len(), self.cx.vms.len());
        self.told = Some(self.cx.now());
        self.ending = Some(self.cx.now() + DRAIN);
        self.cx.clock.at(self.cx.now() + DRAIN, Owner::Signals);
        self.cx.stopping.set(true);
        for mut listening in std::mem::take(&mut self.listeners) {
            self.reactor.io().remove(&mut listening.socket, listening.token);
        }
        self.cx.launches.cancel_all();
        self.cx.bus.end_all();
        let now = self.cx.now();
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        for id in ids {
            if let Some(open) = self.conns.get_mut(&id) {
                if open.conn.is_idle() {
                    self.bury(id);
                    continue;
                }
                open.conn.end(End::new(1001, "server going away"), now);
            }
            self.pump(id);
        }
        scroll::at_the_end(&self.cx);
        if self.cx.config.stop_vms_on_exit {
            for vm in self.cx.vms.all() {
                crate::vm::stop::at_the_end(&self.cx, &vm);
            }
        }
    }

    /// True when everything ended, or the time for it is over.
    fn is_over(&self) -> bool {
        let Some(until) = self.ending else { return false };
        let vms_left = self.cx.config.stop_vms_on_exit && !self.cx.vms.is_empty();
        let launches_left = !self.cx.launches.is_empty() || self.cx.going_on.get() > 0;
        let written = self.cx.diary.depth() == 0 && self.cx.spooling.get() == 0;
        (self.conns.is_empty() && !vms_left && !launches_left && written) || self.cx.now() >= until
    }

    /// SIGUSR1: what is going on, for an operator.
    fn dump(&self) {
        let now = self.cx.now();
        log::info!("{} connections, {} tasks, {} VMs", self.conns.len(), self.tasks.len(), self.cx.vms.len());
        for task in self.tasks.list() {
            log::info!("task {:?} for {:.1}s", task.name, (now - task.since).as_secs_f64());
        }
    }

    fn refresh_date(&mut self) {
        let now = jiff::Timestamp::now();
        if self.date.0 != now.as_second() {
            self.date = (now.as_second(), crate::proto::http::date::format(now));
        }
    }
}
