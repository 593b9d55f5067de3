//! `GET /events`: changes of the caller's VM as server-sent events (WHATWG HTML 9.2).
//!
//! At the start, and at each change, `event: vm` with the contract's `vm` object (or `null` when there is none); `event: me` when the
//! session ended. A browser that lost the connection comes back by itself and gets the present state first.

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
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Instant;

struct Subscriber {
    session: TokenHash,
    feed: Feed,
}

/// Under which name a viewer of a VM listens; no user's id has a `/` in it.
#[must_use]
pub(super) fn viewer_key(vmid: Vmid, token: &TokenHash) -> String {
    format!("{vmid}/{}", data_encoding::HEXLOWER.encode(token))
}

/// Who listens, by user, or by VM and token.
#[derive(Default)]
pub struct Bus(RefCell<HashMap<String, Vec<Subscriber>>>);

impl Bus {
    /// Tells a live VM's owner how it is now.
    pub fn publish(&self, vm: &Vm, now: Instant) {
        self.tell(&vm.user, &vm::to_json(&vm.row.borrow(), Some(vm), now));
    }

    /// Tells of a VM that is only a row yet.
    pub fn publish_row(&self, row: &VmRow, now: Instant) {
        self.tell(&row.user_id, &vm::to_json(row, None, now));
    }

    /// Tells that a start was taken back.
    pub fn publish_gone(&self, row: &VmRow) {
        self.tell(&row.user_id, &Value::Null);
    }

    /// Ends the streams of sessions that ended.
    pub fn end_sessions(&self, sessions: &HashSet<TokenHash>) {
        let line: Rc<[u8]> = Rc::from(&b"event: me\ndata: null\n\n"[..]);
        for subscriber in self.0.borrow().values().flatten().filter(|s| sessions.contains(&s.session)) {
            subscriber.feed.tell(Rc::clone(&line));
            subscriber.feed.end();
        }
    }

    /// Tells a viewer of a VM what he may.
    pub fn tell_viewer(&self, vmid: Vmid, token: &TokenHash, what: &Value) {
        let line: Rc<[u8]> = format!("event: viewer\ndata: {what}\n\n").into_bytes().into();
        let bus = self.0.borrow();
        bus.get(&viewer_key(vmid, token)).into_iter().flatten().for_each(|s| s.feed.tell(Rc::clone(&line)));
    }

    /// Tells all viewers that the VM is gone, and ends their streams.
    pub fn end_viewers(&self, vmid: Vmid) {
        let line: Rc<[u8]> = Rc::from(&b"event: viewer\ndata: null\n\n"[..]);
        let (bus, prefix) = (self.0.borrow(), format!("{vmid}/"));
        for (_, subscribers) in bus.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            subscribers.iter().for_each(|subscriber| {
                subscriber.feed.tell(Rc::clone(&line));
                subscriber.feed.end();
            });
        }
    }

    /// Ends all streams: the server goes away.
    pub fn end_all(&self) {
        self.0.borrow().values().flatten().for_each(|subscriber| subscriber.feed.end());
    }

    fn tell(&self, user: &str, vm: &Value) {
        if let Some(subscribers) = self.0.borrow().get(user) {
            let line = line(vm);
            subscribers.iter().for_each(|subscriber| subscriber.feed.tell(Rc::clone(&line)));
        }
    }

    /// Adds a listener, unless one user has `most` already.
    pub(super) fn subscribe(&self, user: &str, session: TokenHash, feed: Feed, most: usize) -> Result<(), Problem> {
        let mut bus = self.0.borrow_mut();
        // Who left is dropped here, so the table is as large as who listens, and no timer is needed.
        bus.retain(|_, subscribers| {
            subscribers.retain(|s| !s.feed.is_over());
            !subscribers.is_empty()
        });
        let subscribers = bus.entry(user.to_owned()).or_default();
        if subscribers.len() >= most {
            return Err(Problem::too_many(30));
        }
        subscribers.push(Subscriber { session, feed });
        Ok(())
    }
}

fn line(vm: &Value) -> Rc<[u8]> {
    format!("event: vm\ndata: {vm}\n\n").into_bytes().into()
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
    feed.tell(line(&vm.unwrap_or(Value::Null)));
    let most = cx.config.limits.event_streams_per_user;
    cx.bus.subscribe(&caller.user.id, caller.token, feed.clone(), most)?;
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
