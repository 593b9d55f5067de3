//! `GET /events`: changes of the caller's VM as server-sent events (WHATWG HTML 9.2).
//!
//! At the start, and at each change, `event: vm` with the contract's `vm` object (or `null` when there is none); `event: me` when the
//! session ended. A browser that lost the connection comes back by itself and says by `Last-Event-ID` what it heard last: it gets what it
//! missed, if that is still known, and otherwise the present state first.

use super::Req;
use super::session::TokenHash;
use crate::db::vms::VmRow;
use crate::house::Cx;
use crate::net::feed::Feed;
use crate::net::response::{Body, Response};
use crate::proto::http::Method;
use crate::proto::problem::Problem;
use crate::vm::{self, Vm, Vmid};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::Instant;

struct Subscriber {
    session: TokenHash,
    /// Which of those who came with the same token.
    key: TokenHash,
    feed: Feed,
}

/// Under which name a viewer of a VM listens; no user's id has a `/` in it.
#[must_use]
pub(super) fn viewer_key(vmid: Vmid, token: &TokenHash) -> String {
    format!("{vmid}/{}", data_encoding::HEXLOWER.encode(token))
}

/// Events kept of each user for who comes back.
const KEPT: usize = 16;
/// Users whose events are kept; beyond it all of them are forgotten.
const USERS: usize = 5000;

/// What a user's streams were told.
#[derive(Default)]
struct Past {
    /// The number of the last event.
    last: u64,
    kept: VecDeque<(u64, Rc<[u8]>)>,
}

/// Who listens, by user, or by VM and token.
pub struct Bus {
    listening: RefCell<HashMap<String, Vec<Subscriber>>>,
    past: RefCell<HashMap<String, Past>>,
    /// Tells this server's numbers from those of another.
    epoch: RefCell<String>,
}

impl Default for Bus {
    fn default() -> Self {
        Self { listening: RefCell::default(), past: RefCell::default(), epoch: RefCell::new(crate::random::hex_id()) }
    }
}

impl Bus {
    /// Tells a live VM's owner how it is now.
    pub fn publish(&self, vm: &Vm, now: Instant) {
        self.tell(&vm.user, &vm::to_json(&vm.row.borrow(), Some(vm), now));
    }

    /// As [`Bus::publish`], where it ends at another time, or soon: that is for those who look as well.
    pub fn publish_expiry(&self, vm: &Vm, now: Instant) {
        self.publish(vm, now);
        for viewer in vm.viewers.all() {
            self.tell_viewer(vm.vmid, (&viewer.token, &viewer.key), &super::viewers::told(vm, &viewer, now));
        }
    }

    /// Tells of a VM that is only a row yet.
    pub fn publish_row(&self, row: &VmRow, now: Instant) {
        self.tell(&row.user_id, &vm::to_json(row, None, now));
    }

    /// Tells that a start was taken back.
    pub fn publish_gone(&self, row: &VmRow) {
        self.tell(&row.user_id, &Value::Null);
    }

    /// The sessions, and links, that listen.
    #[must_use]
    pub(super) fn sessions(&self) -> HashSet<TokenHash> {
        let listening = self.listening.borrow();
        listening.values().flatten().filter(|s| !s.feed.is_over()).map(|s| s.session).collect()
    }

    /// Ends the streams of sessions that ended.
    pub fn end_sessions(&self, sessions: &HashSet<TokenHash>) {
        let line: Rc<[u8]> = Rc::from(&b"event: me\ndata: null\n\n"[..]);
        for subscriber in self.listening.borrow().values().flatten().filter(|s| sessions.contains(&s.session)) {
            subscriber.feed.tell(Rc::clone(&line));
            subscriber.feed.end();
        }
    }

    /// Tells a viewer of a VM what he may.
    pub fn tell_viewer(&self, vmid: Vmid, (token, key): (&TokenHash, &TokenHash), what: &Value) {
        let line: Rc<[u8]> = format!("event: viewer\ndata: {what}\n\n").into_bytes().into();
        let bus = self.listening.borrow();
        let all = bus.get(&viewer_key(vmid, token)).into_iter().flatten();
        all.filter(|s| s.key == *key).for_each(|s| s.feed.tell(Rc::clone(&line)));
    }

    /// Tells all viewers that the VM is gone, and ends their streams.
    pub fn end_viewers(&self, vmid: Vmid) {
        let line: Rc<[u8]> = Rc::from(&b"event: viewer\ndata: null\n\n"[..]);
        let (bus, prefix) = (self.listening.borrow(), format!("{vmid}/"));
        for (_, subscribers) in bus.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            subscribers.iter().for_each(|subscriber| {
                subscriber.feed.tell(Rc::clone(&line));
                subscriber.feed.end();
            });
        }
    }

    /// Ends all streams: the server goes away.
    pub fn end_all(&self) {
        self.listening.borrow().values().flatten().for_each(|subscriber| subscriber.feed.end());
    }

    fn tell(&self, user: &str, vm: &Value) {
        let line = {
            let mut all = self.past.borrow_mut();
            if all.len() >= USERS && !all.contains_key(user) {
                all.clear();
                // Their numbers begin again.
                self.epoch.replace(crate::random::hex_id());
            }
            let past = all.entry(user.to_owned()).or_default();
            past.last += 1;
            let line = self.line(past.last, vm);
            past.kept.push_back((past.last, Rc::clone(&line)));
            if past.kept.len() > KEPT {
                past.kept.pop_front();
            }
            line
        };
        let listening = self.listening.borrow();
        listening.get(user).into_iter().flatten().for_each(|subscriber| subscriber.feed.tell(Rc::clone(&line)));
    }

    /// The present state as an event.
    fn present(&self, user: &str, vm: &Value) -> Rc<[u8]> {
        self.line(self.past.borrow().get(user).map_or(0, |past| past.last), vm)
    }

    /// What a user's stream was told after the event of this id; `None` when that is not known (any more).
    fn missed(&self, user: &str, id: &str) -> Option<Vec<Rc<[u8]>>> {
        let (epoch, number) = id.split_once('-')?;
        let heard: u64 = number.parse().ok().filter(|_| epoch == *self.epoch.borrow())?;
        let all = self.past.borrow();
        let Some(past) = all.get(user) else { return (heard == 0).then(Vec::new) };
        let oldest = past.kept.front().map_or(past.last + 1, |(number, _)| *number);
        let is_known = heard + 1 >= oldest && heard <= past.last;
        let later = past.kept.iter().filter(|(number, _)| *number > heard);
        is_known.then(|| later.map(|(_, line)| Rc::clone(line)).collect())
    }

    fn line(&self, number: u64, vm: &Value) -> Rc<[u8]> {
        format!("id: {}-{number}\nevent: vm\ndata: {vm}\n\n", self.epoch.borrow()).into_bytes().into()
    }

    /// Adds a listener, unless one user has `most` already.
    pub(super) fn subscribe(
        &self,
        user: &str,
        (session, key): (TokenHash, TokenHash),
        feed: Feed,
        most: usize,
    ) -> Result<(), Problem> {
        let mut bus = self.listening.borrow_mut();
        // Who left is dropped here, so the table is as large as who listens, and no timer is needed.
        bus.retain(|_, subscribers| {
            subscribers.retain(|s| !s.feed.is_over());
            !subscribers.is_empty()
        });
        let subscribers = bus.entry(user.to_owned()).or_default();
        if subscribers.len() >= most {
            return Err(Problem::too_many(30));
        }
        subscribers.push(Subscriber { session, key, feed });
        Ok(())
    }
}

/// `GET /events`.
pub async fn stream(cx: Cx, req: Rc<Req>) -> Result<Response, Problem> {
    let caller = req.caller()?;
    let vm = super::vms::current(&cx, &caller.user.id).await?;
    if req.head.method == Method::Head {
        // Nobody would read the stream.
        return Ok(headers());
    }
    let feed = Feed::new(cx.notify());
    let heard = req.head.headers.get("last-event-id");
    match heard.and_then(|id| cx.bus.missed(&caller.user.id, id)) {
        Some(missed) => missed.into_iter().for_each(|line| feed.tell(line)),
        None => feed.tell(cx.bus.present(&caller.user.id, &vm.unwrap_or(Value::Null))),
    }
    let most = cx.config.limits.event_streams_per_user;
    cx.bus.subscribe(&caller.user.id, (caller.token, caller.token), feed.clone(), most)?;
    super::recheck::begin(&cx);
    let mut response = headers();
    response.body = Body::Events(feed);
    Ok(response)
}

pub(super) fn headers() -> Response {
    Response::empty(200)
        .with("content-type", "text/event-stream")
        .with("cache-control", "no-store")
        .with("x-accel-buffering", "no")
}
