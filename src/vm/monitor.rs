//! The driver of one QMP connection (QEMU Machine Protocol, docs/interop/qmp-spec): commands with answers, events with meaning.
//!
//! Bytes go through `proto::qmp`. QEMU serves one client a socket: this one holds it for the VM's life. When the
//! connection ends, what was asked gets no answer ([`Ended`]); whether QEMU lives is told by its pidfd alone.

use super::Vmid;
use crate::house::{House, Owner};
use crate::proto::qmp::{self, Event, Machine, VmEvent};
use crate::reactor::task::{Answer, Latch, Promise, oneshot};
use mio::Token;
use mio::net::UnixStream;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// QEMU refused it, in its words.
    Refused(String),
    /// The connection ended before the answer.
    Ended,
    /// It did not answer in time.
    Silent,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Ended => f.write_str("QEMU closed its monitor"),
            Self::Silent => f.write_str("QEMU does not answer"),
        }
    }
}

type Result<T> = std::result::Result<T, Failed>;

/// Commands that may wait for their answers.
const PENDING: usize = 64;
/// Bytes taken from QEMU in one turn: one that writes without end must not keep the loop.
const QUANTUM: usize = 256 * 1024;

/// See the file's page.
pub struct Monitor {
    socket: UnixStream,
    token: Option<Token>,
    machine: Machine,
    next_id: u64,
    pending: HashMap<u64, Answer<Result<Value>>>,
    /// What the socket refused; at most a few commands.
    out: Vec<u8>,
    writable: bool,
    /// Set by QEMU's greeting: version as text.
    pub greeting: Latch<String>,
}

impl Monitor {
    /// Connects; QEMU's greeting comes later.
    ///
    /// # Errors
    /// The socket is not there yet, or its one place in the queue is taken: try again in a moment.
    pub fn connect(house: &House, path: &Path, process: u64, pid: u32) -> std::io::Result<Self> {
        let mut socket = UnixStream::connect(path)?;
        super::apart::is_of(&socket, pid)?;
        let token = house.io.add(&mut socket, Owner::Qmp(process))?;
        Ok(Self {
            socket,
            token: Some(token),
            machine: Machine::default(),
            next_id: 1,
            pending: HashMap::new(),
            out: Vec::new(),
            writable: true,
            greeting: Latch::default(),
        })
    }

    /// Sends a command; the promise is broken when the connection ends.
    pub fn send(&mut self, name: &str, arguments: Option<Value>) -> Option<Promise<Result<Value>>> {
        if self.token.is_none() || self.pending.len() >= PENDING {
            return None;
        }
        let (answer, promise) = oneshot();
        self.pending.insert(self.next_id, answer);
        self.out.extend_from_slice(&qmp::command(self.next_id, name, arguments));
        self.next_id += 1;
        self.write();
        Some(promise)
    }

    /// Handles that the socket takes more.
    pub fn on_writable(&mut self) {
        self.writable = true;
        self.write();
    }

    /// Reads what QEMU says, which is that of `of` (vmid and owner); `tell` hears of what happened in the guest. True when the quantum was used up and no event will tell of the rest.
    pub fn receive(&mut self, house: &House, of: (Vmid, &str), mut tell: impl FnMut(VmEvent)) -> bool {
        let (mut buffer, mut taken) = ([0; 16 * 1024], 0);
        while self.token.is_some() {
            if taken >= QUANTUM {
                return true;
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => self.end(house),
                Ok(count) => {
                    taken += count;
                    let bytes = buffer.get(..count).unwrap_or_default();
                    if let Err(e) = self.machine.receive(bytes) {
                        log::warn!(vmid:% = of.0, user = of.1; "QEMU's monitor talks nonsense, it is closed: {e}");
                        self.end(house);
                    }
                    while let Some(event) = self.machine.poll_event() {
                        self.on_event(event, &mut tell);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.end(house),
            }
        }
        false
    }

    /// Closes the connection; who waits for an answer gets [`Failed::Ended`].
    pub fn end(&mut self, house: &House) {
        if let Some(token) = self.token.take() {
            house.io.remove(&mut self.socket, token);
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
        }
        self.pending.clear();
    }

    fn on_event(&mut self, event: Event, tell: &mut impl FnMut(VmEvent)) {
        match event {
            Event::Greeting { major, minor, micro, .. } => self.greeting.set(format!("{major}.{minor}.{micro}")),
            Event::Return { id, value } => self.answer(id, Ok(value)),
            Event::Error { id, desc, .. } => self.answer(id, Err(Failed::Refused(desc))),
            Event::Event { name, data, .. } => tell(qmp::classify(&name, data.as_ref())),
        }
    }

    fn answer(&mut self, id: Option<u64>, result: Result<Value>) {
        if let Some(answer) = id.and_then(|id| self.pending.remove(&id)) {
            answer.give(result);
        }
    }

    fn write(&mut self) {
        while self.writable && !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // WouldBlock: an event will come. Anything else: the read side notices and ends it.
                Err(_) => self.writable = false,
            }
        }
    }
}
