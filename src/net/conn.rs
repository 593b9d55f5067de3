//! One HTTP/1.1 connection: bytes to requests, responses to bytes (RFC 9112), until it ends or becomes a relay.
//!
//! A connection works on one request at a time. While one is pending nothing is read, so what a client pipelines waits in the kernel;
//! while output waits no further request is taken. [`Conn::pump`] runs until the socket blocks, a request is handed out, or
//! its turn is over. Deadlines are told by [`Conn::next_timeout`] and acted on by [`Conn::on_timeout`]: one for the head, one for the
//! body, one for idleness, one for a peer that does not read.
//!
//! A large body does not become part of its request: it goes to the story through [`super::body`], with back-pressure to the socket.
//!
//! After an error the connection closes, but not before its answer can arrive: output ends, input is read and dropped for a moment
//! (RFC 9112 9.6), because a reset would destroy the answer in flight.

use super::Scratch;
use super::body::{self, Broken, Incoming, Inlet};
use super::feed::{Feed, Notify};
use super::intake::{self, Poured};
use super::outbuf::Piece;
use super::relay::{End, Pumped, Relay};
use super::response::{Body, Response};
use super::stream::{Received, Stream};
use crate::proto::http::reader::{Event, RequestReader};
use crate::proto::http::response::{self as wire, Framing};
use crate::proto::http::{BodyLength, Head, Method};
use crate::proto::problem::Problem;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes dropped after an error before the connection is cut.
const LINGER_BYTES: usize = 1024 * 1024;
/// Time given to the peer to read an error.
const LINGER: Duration = Duration::from_secs(3);
/// Time between bytes of what is left of a large body after its answer, and for all of it: browsers read no answer before they have sent
/// everything, and 4 GB over a slow line take a while.
const DRAIN: Duration = Duration::from_secs(30);
const DRAIN_MOST: Duration = Duration::from_secs(3 * 3600);
/// Input taken in one turn.
const QUANTUM: usize = 256 * 1024;
/// The same of a large body. Its sender is never done, and whoever moves a mouse meanwhile waits for one such piece.
const BODY_QUANTUM: usize = 64 * 1024;

/// The bounds a connection keeps; see the configuration's `[limits]`.
pub struct Bounds {
    /// For the parser.
    pub head: crate::proto::http::reader::Limits,
    /// Longest body kept for a handler.
    pub body_bytes: usize,
    /// From a head's first byte to its end.
    pub head_time: Duration,
    /// From the head to the body's end.
    pub body_time: Duration,
    /// Between requests.
    pub idle_time: Duration,
    /// Without a byte leaving while some wait.
    pub write_time: Duration,
    /// Without a byte of a large body coming.
    pub stall_time: Duration,
    /// Looks at a head before anybody: true for a request that gets its body piece by piece.
    pub admit: fn(&mut Head) -> bool,
    /// Tells the loop that a connection can go on.
    pub notify: Notify,
}

/// A whole request.
pub struct Request {
    /// The head.
    pub head: Head,
    /// The body, at most [`Bounds::body_bytes`].
    pub body: Vec<u8>,
    /// The body of a request that gets it piece by piece.
    pub incoming: Option<Incoming>,
}

/// What a pump left.
pub enum Outcome {
    /// Nothing to do until an event.
    Idle,
    /// The turn is over, but not the work.
    More,
    /// A request for the house; the connection waits for [`Conn::respond`].
    Request(Request),
    /// The connection is over and can be dropped.
    Closed,
}

/// For the access log.
pub struct Sent {
    /// The status code.
    pub status: u16,
    /// Body bytes, 0 for streams.
    pub bytes: u64,
}

enum Phase {
    /// Between requests, or in the middle of one; `head` is there while its body is read.
    Reading { head: Option<Box<Head>>, body: Vec<u8>, since: Option<Instant> },
    /// The house works on it.
    Pending { head_only: bool, http10: bool, keep_alive: bool },
    /// Events are written as they come.
    Events(Feed),
    /// Output ends, then what still comes is dropped.
    Lingering { until: Instant, time: Duration, left: usize, finished: bool },
    /// A websocket.
    Relay(Box<Relay>),
}

/// See the file's page.
pub struct Conn {
    id: u64,
    stream: Stream,
    bounds: Rc<Bounds>,
    reader: RequestReader,
    input: Vec<u8>,
    phase: Phase,
    /// The large body of the pending request.
    inlet: Option<Inlet>,
    /// Its client waits for 100 before it sends it.
    expects: bool,
    /// Nothing was read because the story had no room.
    held_up: bool,
    idle_since: Instant,
    /// No request has come yet.
    fresh: bool,
    /// The peer's address, for logs and throttling.
    pub peer: IpAddr,
    /// True on the plain port that only redirects.
    pub redirects: bool,
    /// The peer will send no more.
    half_closed: bool,
}

impl Conn {
    /// An accepted connection.
    #[must_use]
    pub fn new(id: u64, stream: Stream, peer: IpAddr, redirects: bool, bounds: Rc<Bounds>, now: Instant) -> Self {
        Self {
            id,
            stream,
            reader: RequestReader::new(bounds.head.clone()),
            bounds,
            input: Vec::new(),
            phase: Phase::Reading { head: None, body: Vec::new(), since: None },
            inlet: None,
            expects: false,
            held_up: false,
            idle_since: now,
            fresh: true,
            peer,
            redirects,
            half_closed: false,
        }
    }

    /// The stream, for registering it and for its events.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The relay it became, if it did, with its stream.
    pub fn relay(&mut self) -> Option<(&mut Relay, &mut Stream)> {
        match &mut self.phase {
            Phase::Relay(relay) => Some((relay, &mut self.stream)),
            _ => None,
        }
    }

    /// True while a handler works on its request.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self.phase, Phase::Pending { .. })
    }

    /// True when nothing is lost by closing it: no request is in work and no output waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Reading { head: None, .. }) && self.input.is_empty() && !self.stream.is_blocked()
    }

    /// The peer will send no more: a pending request's asker has probably left.
    pub fn peer_closed(&mut self) {
        self.half_closed = true;
    }

    /// Ends a stream of events or a relay because the server goes away or the right to it ended.
    pub fn end(&mut self, end: End, now: Instant) {
        match &mut self.phase {
            Phase::Relay(relay) => relay.close(&mut self.stream, end, now),
            Phase::Events(feed) => feed.end(),
            _ => {}
        }
        if let Some(inlet) = &self.inlet {
            inlet.fail(Broken::Ending);
        }
    }

    /// Moves what can be moved.
    pub fn pump(&mut self, scratch: &mut Scratch, now: Instant) -> Outcome {
        let mut budget = QUANTUM;
        loop {
            if let Phase::Relay(relay) = &mut self.phase {
                return match relay.pump(&mut self.stream, scratch, now) {
                    Pumped::Idle => Outcome::Idle,
                    Pumped::More => Outcome::More,
                    Pumped::Done => Outcome::Closed,
                };
            }
            if self.stream.flush(now).is_err() {
                return Outcome::Closed;
            }
            if self.stream.is_blocked() && !matches!(self.phase, Phase::Lingering { .. }) {
                return Outcome::Idle;
            }
            match &mut self.phase {
                Phase::Relay(_) => return Outcome::Idle,
                Phase::Pending { .. } => return self.pump_body(scratch, now),
                Phase::Events(_) => match self.pump_events() {
                    Some(outcome) => return outcome,
                    None => continue,
                },
                Phase::Lingering { .. } => return self.pump_lingering(scratch, now),
                Phase::Reading { .. } => {}
            }
            match self.parse(now) {
                Ok(Some(request)) => return Outcome::Request(request),
                Ok(None) => {}
                Err(problem) => {
                    self.refuse(problem, now);
                    continue;
                }
            }
            if self.stream.is_blocked() {
                continue;
            }
            if budget == 0 {
                return Outcome::More;
            }
            match self.stream.receive(scratch) {
                Received::Bytes(bytes) => {
                    budget = budget.saturating_sub(bytes.len());
                    if let Phase::Reading { since, .. } = &mut self.phase {
                        since.get_or_insert(now);
                    }
                    self.input.extend_from_slice(bytes);
                }
                Received::Blocked => return Outcome::Idle,
                Received::End | Received::Broken(_) => return Outcome::Closed,
                Received::NotTls => {
                    self.stream.drop_tls();
                    self.refuse(
                        Problem::bad_request("tls_required", "This port speaks HTTPS: write https:// in the address."),
                        now,
                    );
                }
            }
        }
    }

    /// Writes the answer to the pending request; a relay must have been upgraded by [`Conn::become_relay`] instead.
    pub fn respond(&mut self, response: Response, close: bool, now: Instant, date: &str) -> Sent {
        let Phase::Pending { head_only, http10, keep_alive } = self.phase else {
            return Sent { status: 0, bytes: 0 };
        };
        let cut = self.inlet.take().is_some_and(|inlet| !inlet.is_whole());
        let keep_alive = keep_alive && !close && !cut && !self.half_closed_for_good();
        let length = response.body.length();
        let framing = match length {
            Some(length) => Framing::Length(length),
            None if http10 => Framing::UntilClose,
            None => Framing::Chunked,
        };
        let keep_alive = keep_alive && !matches!(framing, Framing::UntilClose);
        let mut head = Vec::with_capacity(512);
        wire::write_head(&mut head, response.status, &response.headers, framing, keep_alive, date);
        self.stream.push(Piece::Owned(head));
        let mut sent = Sent { status: response.status, bytes: 0 };
        self.phase = if keep_alive {
            Phase::Reading { head: None, body: Vec::new(), since: None }
        } else if cut && !self.expects {
            self.input = Vec::new();
            Phase::Lingering { until: now + DRAIN, time: DRAIN, left: usize::MAX, finished: false }
        } else {
            Phase::Lingering { until: now + LINGER, time: LINGER, left: LINGER_BYTES, finished: false }
        };
        self.idle_since = now;
        if !head_only {
            sent.bytes = length.unwrap_or(0);
            match response.body {
                Body::Empty => {}
                Body::Bytes(bytes) => self.stream.push(Piece::Owned(bytes)),
                Body::Static(bytes) => self.stream.push(Piece::Static(bytes)),
                Body::Events(feed) => self.phase = Phase::Events(feed),
            }
        }
        sent
    }

    /// Answers the pending request with 101 and speaks websocket from then on.
    pub fn become_relay(&mut self, relay: Box<Relay>, headers: &[(&'static str, String)], now: Instant, date: &str) {
        let mut head = Vec::with_capacity(256);
        wire::write_head(&mut head, 101, headers, Framing::None, true, date);
        self.stream.push(Piece::Owned(head));
        self.idle_since = now;
        self.phase = Phase::Relay(relay);
        // A client must not send frames before it has the 101; what came all the same is not a frame we promised to read.
        self.input = Vec::new();
    }

    /// The earliest of this connection's deadlines.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.stream.is_blocked() {
            let write = self.stream.moved() + self.bounds.write_time;
            return match &self.phase {
                Phase::Lingering { until, .. } => Some(write.min(*until)),
                Phase::Relay(relay) => Some(relay.next_timeout().map_or(write, |end| end.min(write))),
                _ => Some(write),
            };
        }
        match &self.phase {
            Phase::Reading { head: Some(_), since, .. } => since.map(|at| at + self.bounds.body_time),
            Phase::Reading { head: None, since: Some(since), .. } => Some(*since + self.bounds.head_time),
            // Before the first request the time for it runs, the TLS handshake included.
            Phase::Reading { .. } if self.fresh => Some(self.idle_since + self.bounds.head_time),
            Phase::Reading { .. } => Some(self.idle_since + self.bounds.idle_time),
            Phase::Lingering { until, .. } => Some(*until),
            Phase::Relay(relay) => relay.next_timeout(),
            Phase::Pending { .. } => {
                let reads = self.inlet.as_ref().is_some_and(|inlet| inlet.room() > 0);
                reads.then_some(self.idle_since + self.bounds.stall_time)
            }
            Phase::Events(_) => None,
        }
    }

    /// A deadline has passed. False: drop the connection.
    pub fn on_timeout(&mut self, now: Instant) -> bool {
        if self.next_timeout().is_none_or(|at| at > now) {
            return true;
        }
        match &mut self.phase {
            _ if self.stream.is_blocked() => false,
            Phase::Relay(relay) => relay.on_timeout(&mut self.stream, now),
            Phase::Pending { .. } => {
                if let Some(inlet) = &self.inlet {
                    inlet.fail(Broken::Stalled);
                }
                true
            }
            Phase::Reading { since: Some(_), .. } => {
                self.refuse(Problem::timeout("The request did not arrive in time. Send it again."), now);
                true
            }
            _ => false,
        }
    }

    fn half_closed_for_good(&self) -> bool {
        self.half_closed && self.input.is_empty() && !self.stream.is_readable()
    }

    /// Takes the next request out of the input, if it is whole.
    fn parse(&mut self, now: Instant) -> Result<Option<Request>, Problem> {
        let Phase::Reading { head, body, since } = &mut self.phase else { return Ok(None) };
        let mut rest = self.input.as_slice();
        let (mut whole, mut large) = (None, false);
        while whole.is_none() {
            match self.reader.next(&mut rest)? {
                None => break,
                Some(Event::Head(mut new)) => {
                    let streams = (self.bounds.admit)(&mut new);
                    let announced = match new.body {
                        BodyLength::None => 0,
                        BodyLength::Length(length) => length,
                        BodyLength::Chunked => 1,
                    };
                    if announced > 0 && streams {
                        whole = Some(Box::new(new));
                        large = true;
                        break;
                    }
                    if announced > self.bounds.body_bytes as u64 {
                        return Err(too_large(self.bounds.body_bytes));
                    }
                    if new.expect_continue && announced > 0 && rest.is_empty() {
                        self.stream.push(Piece::Static(wire::CONTINUE));
                    }
                    *since = Some(now);
                    *head = Some(Box::new(new));
                }
                Some(Event::Body(bytes)) => {
                    if body.len() + bytes.len() > self.bounds.body_bytes {
                        return Err(too_large(self.bounds.body_bytes));
                    }
                    body.extend_from_slice(bytes);
                }
                Some(Event::End) => whole = head.take(),
            }
        }
        let request = whole.map(|head| Request { head: *head, body: std::mem::take(body), incoming: None });
        let used = self.input.len() - rest.len();
        if used == self.input.len() {
            self.input = Vec::new();
        } else {
            self.input.drain(..used);
        }
        let mut request = request;
        if let Some(Request { head, incoming, .. }) = &mut request {
            if large {
                let length = match head.body {
                    BodyLength::Length(length) => Some(length),
                    _ => None,
                };
                let (inlet, body) = body::body(length, self.id, Rc::clone(&self.bounds.notify));
                (self.inlet, *incoming) = (Some(inlet), Some(body));
                self.expects = head.expect_continue;
                self.idle_since = now;
            }
            self.fresh = false;
            self.phase = Phase::Pending {
                head_only: head.method == Method::Head,
                http10: head.version.is_http10(),
                keep_alive: head.keep_alive,
            };
        }
        Ok(request)
    }

    /// Answers a request that never became one, and closes.
    fn refuse(&mut self, problem: Problem, now: Instant) {
        log::debug!(peer:% = self.peer, status = problem.status; "request refused: {}", problem.detail);
        self.phase = Phase::Pending { head_only: false, http10: false, keep_alive: false };
        self.input = Vec::new();
        let date = crate::proto::http::date::format(jiff::Timestamp::now());
        self.respond(problem.into(), true, now, &date);
    }

    /// Brings a large body to its story, as far as there is room for it.
    fn pump_body(&mut self, scratch: &mut Scratch, now: Instant) -> Outcome {
        let mut budget = BODY_QUANTUM;
        if std::mem::take(&mut self.held_up) {
            // That was our time, not the client's.
            self.idle_since = now;
        }
        loop {
            let Some(inlet) = self.inlet.as_ref().filter(|inlet| inlet.is_wanted()) else { return Outcome::Idle };
            if std::mem::take(&mut self.expects) && self.input.is_empty() {
                self.stream.push(Piece::Static(wire::CONTINUE));
                if self.stream.flush(now).is_err() {
                    return Outcome::Closed;
                }
            }
            match intake::pour(&mut self.reader, &mut self.input, inlet) {
                Err(()) => inlet.fail(Broken::Malformed),
                Ok(Poured::Whole) => inlet.finish(),
                Ok(Poured::Full) => {
                    self.held_up = true;
                    inlet.wait_for_room();
                    return Outcome::Idle;
                }
                Ok(Poured::Dry) if budget == 0 => {
                    inlet.hand_over();
                    return Outcome::More;
                }
                Ok(Poured::Dry) => {
                    match intake::read(&mut self.stream, &mut self.reader, inlet, &mut self.input, scratch) {
                        Some(0) => {
                            inlet.hand_over();
                            return Outcome::Idle;
                        }
                        Some(count) => {
                            budget = budget.saturating_sub(count);
                            self.idle_since = now;
                        }
                        None => {
                            inlet.fail(Broken::Left);
                            return Outcome::Closed;
                        }
                    }
                }
            }
        }
    }

    fn pump_events(&mut self) -> Option<Outcome> {
        let Phase::Events(feed) = &self.phase else { return None };
        match feed.take() {
            Some(piece) => {
                let mut frame = Vec::new();
                wire::write_chunk(&mut frame, piece.bytes());
                self.stream.push(Piece::Owned(frame));
                None
            }
            None if feed.is_over() => {
                self.stream.push(Piece::Static(wire::LAST_CHUNK));
                let until = self.idle_since + LINGER;
                self.phase = Phase::Lingering { until, time: LINGER, left: LINGER_BYTES, finished: false };
                None
            }
            None => Some(if self.half_closed { Outcome::Closed } else { Outcome::Idle }),
        }
    }

    fn pump_lingering(&mut self, scratch: &mut Scratch, now: Instant) -> Outcome {
        if self.stream.is_blocked() {
            return Outcome::Idle;
        }
        let Phase::Lingering { left, until, time, finished } = &mut self.phase else { return Outcome::Closed };
        if !*finished {
            *finished = true;
            *until = now + *time;
            self.stream.finish();
        }
        let mut budget = QUANTUM;
        while *left > 0 {
            if budget == 0 {
                return Outcome::More;
            }
            match self.stream.receive(scratch) {
                Received::Bytes(bytes) => {
                    *left = left.saturating_sub(bytes.len());
                    budget = budget.saturating_sub(bytes.len());
                    if *time == DRAIN && now < self.idle_since + DRAIN_MOST {
                        *until = now + DRAIN;
                    }
                }
                Received::Blocked => return Outcome::Idle,
                Received::End | Received::NotTls | Received::Broken(_) => return Outcome::Closed,
            }
        }
        Outcome::Closed
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Phase::Events(feed) = &self.phase {
            feed.end();
        }
    }
}

fn too_large(limit: usize) -> Problem {
    Problem::new(413, "body_too_large", format!("The body is larger than the {limit} bytes this path takes."))
}
