//! `GET /ws/{http_port}` and `GET /ws/{http_port}/serial`: joins a browser to its VM's screen or serial console.
//!
//! A screen is a connection to QEMU of its own, made before the browser hears anything; the serial console has one for all (`net::line`). QEMU's VNC socket has a backlog of one, so in a burst `connect`
//! says EAGAIN with no event to follow: it is tried again from a timer.

use super::Req;
use super::session::{self, TokenHash};
use super::{shares, viewers};
use crate::db::events::{Connection, Event};
use crate::db::vms;
use crate::house::{Cx, House};
use crate::net::back::Back;
use crate::net::relay::{End, Meter, Relay, Ticket, Tracker};
use crate::net::response::Response;
use crate::proto::http::Method;
use crate::proto::problem::Problem;
use crate::proto::rfb::ClientTracker;
use crate::proto::websocket::{self, Decoder, TextPolicy, Upgrade};
use crate::vm::args::OWNERS_ROOM;
use crate::vm::diary;
use crate::vm::viewers::{Comer, Kind};
use crate::vm::{Vm, apart};
use mio::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

/// Pauses between attempts to connect to QEMU; the last one repeats.
const PAUSES_MS: [u64; 5] = [1, 2, 5, 10, 20];

/// What of a VM is looked at; the word is that of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Console {
    Vnc,
    Serial,
}

impl Console {
    fn word(self) -> &'static str {
        match self {
            Self::Vnc => "vnc",
            Self::Serial => "serial",
        }
    }
}

/// `GET /ws/{http_port}`.
pub async fn vnc(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    open(cx, req, Console::Vnc).await
}

/// `GET /ws/{http_port}/serial`.
pub async fn serial(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    open(cx, req, Console::Serial).await
}

/// The story of an upgrade.
async fn open(cx: Cx, req: Rc<Req>, console: Console) -> Result<Response, Problem> {
    if req.head.method != Method::Get {
        return Err(Problem::method_not_allowed("GET"));
    }
    let viewer = viewer(&cx, &req).await?;
    has_room(&cx, &viewer)?;
    let header = |name: &str| req.head.headers.get(name);
    let asked = Upgrade {
        upgrade: header("upgrade"),
        connection: header("connection"),
        version: header("sec-websocket-version"),
        key: header("sec-websocket-key"),
        protocols: header("sec-websocket-protocol"),
    };
    let accepted = websocket::accept(&asked).map_err(|e| {
        Problem::new(e.status(), "websocket_expected", e.to_string()).with("sec-websocket-version", "13")
    })?;
    let (back, text, tracker) = match console {
        Console::Vnc => {
            let back = Back::own(connect(&cx, &viewer.vm).await?);
            (back, TextPolicy::Refuse, Tracker::Screen(ClientTracker::default(), Vec::new()))
        }
        Console::Serial => (shared(&cx, &viewer.vm)?, TextPolicy::Accept, Tracker::Typed),
    };
    still_welcome(&cx, &req, &viewer).await?;
    // Again: many may have been let in while QEMU was connected.
    has_room(&cx, &viewer)?;
    let ticket = ticket(&cx, &req, viewer, console);
    let relay = Relay::new(back, Decoder::new(text), tracker, ticket);
    let mut response = Response::empty(101)
        .with("upgrade", "websocket")
        .with("connection", "Upgrade")
        .with("sec-websocket-accept", accepted.key);
    if let Some(protocol) = accepted.protocol {
        response = response.with("sec-websocket-protocol", protocol);
    }
    response.upgrade = Some(Box::new(relay));
    Ok(response)
}

/// QEMU serves so many screens and then none, whoever comes: his own owner must not be the one who finds none.
fn has_room(cx: &Cx, viewer: &Viewing) -> Result<(), Problem> {
    let most = cx.config.limits.viewers_per_vm + if viewer.kind == Kind::Owner { OWNERS_ROOM } else { 0 };
    if viewer.vm.viewers.open() < most {
        return Ok(());
    }
    let detail = format!("{most} screens and terminals of this VM are open, and that is as many as there may be.");
    Err(Problem::unavailable("too_many_viewers", &detail, 30))
}

/// A link may have been revoked, a session ended or a role changed, while QEMU was being connected: what ends relays did not find this one.
async fn still_welcome(cx: &Cx, req: &Req, viewer: &Viewing) -> Result<(), Problem> {
    if viewer.user.is_none() {
        return if viewer.vm.shares.borrow().contains_key(&viewer.token) { Ok(()) } else { Err(shares::gone()) };
    }
    let now = session::authenticate(cx, req).await?.ok_or_else(session::sign_in_first)?;
    if now.user.role == req.caller()?.user.role {
        Ok(())
    } else {
        Err(Problem::unauthorized("session_ended", "Your rights have changed. Load the page again."))
    }
}

/// Who looks at which VM, and what he may.
pub(super) struct Viewing {
    pub(super) vm: Rc<Vm>,
    pub(super) kind: Kind,
    /// The account, unless a link was used.
    user: Option<String>,
    /// For the log: a login name, or which link.
    name: String,
    /// The hash of the token that lets him in.
    pub(super) token: TokenHash,
    /// Tells him from others with the same token.
    pub(super) key: TokenHash,
    pub(super) control: bool,
    /// He asks for it also where it was taken from him.
    asks: bool,
}

/// A link counts before the session: who tries the link he gave away sees what others see. An administrator only looks unless he asks
/// for control.
///
/// # Errors
/// 404 for who may not look, 403 for who may not do more.
pub(super) async fn viewer(cx: &Cx, req: &Req) -> Result<Viewing, Problem> {
    if let Some(secret) = req.link()? {
        let behind = || cx.vms.by_http_port(req.param(0).parse().ok()?);
        let (share, vm) = shares::admit(cx, req, &secret, behind).await?;
        let (name, kind, token) = (format!("link {}", share.id), Kind::Link, share.token_hash);
        let key = viewers::key_of(cx, &secret, req.query()?.get("guest"))?;
        if share.barred {
            vm.viewers.remember_bar(token);
        }
        return Ok(Viewing { vm, kind, user: None, name, token, key, control: share.control, asks: false });
    }
    let caller = req.caller()?;
    let missing = || Problem::not_found("vm_not_found", "No VM of yours runs behind this address.");
    let port: u16 = req.param(0).parse().map_err(|_| missing())?;
    let Some(vm) = cx.vms.by_http_port(port) else {
        let row = cx.db(vms::live_of_user(&cx.db, caller.user.id.clone())).await?;
        return Err(row.filter(|row| row.http_port == port).map_or_else(missing, |_| shares::between()));
    };
    let kind = viewers::kind_of(caller, &vm.row.borrow()).ok_or_else(missing)?;
    let (control, asks) = match req.query()?.get("control") {
        _ if kind == Kind::Owner => (true, false),
        Some("1") if kind == Kind::Admin => (true, true),
        // A page that connects again: nobody asks anew.
        Some("kept") if kind == Kind::Admin => (true, false),
        Some("1" | "kept") => {
            return Err(Problem::forbidden("view_only", "You may look at this VM; its owner can give you control."));
        }
        _ => (false, false),
    };
    let (user, name) = (Some(caller.user.id.clone()), caller.user.login.clone());
    Ok(Viewing { vm, kind, user, name, token: caller.token, key: caller.token, control, asks })
}

/// A place at the VM's serial console; where that is not connected (QEMU was busy), it is tried again.
fn shared(cx: &House, vm: &Vm) -> Result<Back, Problem> {
    let process = Rc::clone(&vm.process.borrow());
    let reader = match process.connect_serial(cx) {
        Ok(()) => process.line.borrow().reader(),
        Err(e) => {
            log::warn!(vmid:% = vm.vmid, user = vm.login().as_str(); "its serial console does not answer: {e}");
            let detail = "The VM's serial console does not answer right now. Try again in a moment.";
            return Err(Problem::unavailable("console_away", detail, 2));
        }
    };
    Ok(Back::Shared(reader))
}

async fn connect(cx: &House, vm: &Vm) -> Result<UnixStream, Problem> {
    let (socket, pid) = (vm.vnc_socket(), vm.process.borrow().pid);
    let limit = Duration::from_secs(cx.config.limits.relay_connect_seconds);
    let attempts = async {
        let mut pauses = PAUSES_MS.iter().copied().chain(std::iter::repeat(PAUSES_MS[PAUSES_MS.len() - 1]));
        loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => return apart::is_of(&stream, pid).map(|()| stream),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    cx.clock.sleep(Duration::from_millis(pauses.next().unwrap_or(20))).await;
                }
                Err(e) => return Err(e),
            }
        }
    };
    let gone =
        || Problem::unavailable("screen_away", "The VM's screen does not answer right now. Try again in a moment.", 2);
    cx.within(limit, attempts).await.ok_or_else(gone)?.map_err(|e| {
        log::warn!(vmid:% = vm.vmid, user = vm.login().as_str(); "its screen does not answer: {e}");
        gone()
    })
}

/// Accounts for one screen: told now, and taken back when the relay is dropped, however it ends.
fn ticket(cx: &Cx, req: &Req, viewer: Viewing, console: Console) -> Ticket {
    let Viewing { vm, kind, user, name, token, key, control, asks } = viewer;
    let (who, first) = vm.viewers.enter(Comer { kind, name: &name, token, key, control }, &vm.meter);
    // Only an administrator takes control by himself; where it was taken from him, by asking for it anew.
    let given = asks && vm.viewers.allow(&who, true);
    let takes = given || (kind == Kind::Admin && first && who.control.get());
    // By now he has a number, and perhaps control.
    cx.bus.tell_viewer(vm.vmid, (&token, &key), &viewers::told(&vm, &who, cx.now()));
    cx.bus.publish(&vm, cx.now());
    super::recheck::begin(cx);
    let about = Connection {
        visit: crate::random::hex_id() + &crate::random::hex_id(),
        vmid: vm.vmid.to_string(),
        user_id: user.clone(),
        kind: "connect".into(),
        via: if kind == Kind::Link { name.clone() } else { kind.word().to_owned() },
        console: console.word().into(),
        ip: req.ip.to_string(),
        bytes_to_browser: 0,
        bytes_to_vm: 0,
        reason: String::new(),
        seconds: None,
    };
    log::info!(vmid:% = vm.vmid, user = name.as_str(), req = req.id.as_str(); "relay connected: {}", console.word());
    diary::note(cx, Event::Connection(about.clone()));
    let watch =
        kind.watches().then(|| Watch { user, ip: about.ip.clone(), owner: vm.login(), vmid: about.vmid.clone() });
    if let Some(watch) = watch.clone().filter(|_| first || takes) {
        watch.note(cx, if takes { "watch with control" } else { "watch" });
    }
    let (house, began) = (Rc::clone(cx), cx.now());
    let vm_number = vm.vmid.number();
    let meter = Rc::new(Meter::below(&who.meter));
    vm.viewers.add_open(&about.visit, &meter);
    let (own, may, number) = (Rc::clone(&meter), Rc::clone(&who.control), who.id);
    let on_end = move |end: Option<&End>| {
        let last = vm.viewers.leave(&who);
        vm.viewers.add_closed(&about.visit, &own);
        let reason = end.map_or_else(|| "connection lost".to_owned(), |end| format!("{} {}", end.code, end.reason));
        log::info!(vmid:% = vm.vmid, user = name.as_str();
            "relay closed: {reason} down={} up={}", own.down.get(), own.up.get());
        if let Some(watch) = watch.filter(|_| last) {
            watch.note(&house, "watch ended");
        }
        if vm.ended.get().is_none() {
            house.bus.publish(&vm, house.now());
        }
        let left = Connection {
            kind: "disconnect".into(),
            bytes_to_browser: own.down.get(),
            bytes_to_vm: own.up.get(),
            reason,
            seconds: Some((house.now() - began).as_secs()),
            ..about
        };
        diary::note(&house, Event::Connection(left));
    };
    Ticket { group: vm_number, session: token, viewer: number, control: may, meter, on_end: Some(Box::new(on_end)) }
}

/// Somebody whom the owner did not let in, for the audit trail.
#[derive(Clone)]
struct Watch {
    user: Option<String>,
    ip: String,
    owner: String,
    vmid: String,
}

impl Watch {
    fn note(self, cx: &Cx, action: &str) {
        let Self { user, ip, owner, vmid } = self;
        diary::note(cx, Event::Audit { user_id: user, ip, action: action.to_owned(), target: vmid, detail: owner });
    }
}
