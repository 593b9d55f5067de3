//! QMP, the QEMU Machine Protocol (QEMU docs/interop/qmp-spec): one JSON object a line, both ways.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt;

/// Longest line taken; QEMU's longest answers (schemas) are far below.
const LINE_MAX: usize = 1024 * 1024;
/// Events kept until they are asked for.
const QUEUE: usize = 1024;

/// Why the connection is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QmpError {
    /// A line without end.
    LineTooLong,
    /// A line that is no JSON object of the protocol.
    Malformed(String),
    /// More events at once than anybody reads.
    TooMany,
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LineTooLong => write!(f, "a line of more than {LINE_MAX} bytes"),
            Self::Malformed(line) => write!(f, "not a QMP message: {line}"),
            Self::TooMany => f.write_str("too many messages at once"),
        }
    }
}

impl std::error::Error for QmpError {}

/// What QEMU says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The first message.
    Greeting {
        /// Major version.
        major: u64,
        /// Minor version.
        minor: u64,
        /// Micro version.
        micro: u64,
    },
    /// A command's result.
    Return {
        /// The command's id.
        id: Option<u64>,
        /// The result.
        value: Value,
    },
    /// A command's refusal.
    Error {
        /// The command's id.
        id: Option<u64>,
        /// For people.
        desc: String,
    },
    /// Something happened.
    Event {
        /// Its name, in capitals.
        name: String,
        /// More about it; many events have none.
        data: Option<Value>,
    },
}

/// Bytes in, events out.
#[derive(Debug, Default)]
pub struct Machine {
    line: Vec<u8>,
    events: VecDeque<Event>,
}

impl Machine {
    /// Takes all of `bytes`.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), QmpError> {
        let mut rest = bytes;
        while let Some(at) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at_checked(at + 1).unwrap_or((rest, &[]));
            rest = after;
            self.keep(line)?;
            let line = std::mem::take(&mut self.line);
            let text = line.trim_ascii();
            if !text.is_empty() {
                if self.events.len() == QUEUE {
                    return Err(QmpError::TooMany);
                }
                self.events.push_back(parse(text)?);
            }
        }
        self.keep(rest)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), QmpError> {
        if self.line.len() + part.len() > LINE_MAX {
            return Err(QmpError::LineTooLong);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }
}

fn parse(line: &[u8]) -> Result<Event, QmpError> {
    let malformed = || {
        let shown = String::from_utf8_lossy(line);
        QmpError::Malformed(shown.chars().take(80).collect())
    };
    let Ok(Value::Object(mut message)) = serde_json::from_slice(line) else { return Err(malformed()) };
    let id = message.get("id").and_then(Value::as_u64);
    if let Some(greeting) = message.get("QMP") {
        let version = |part: &str| greeting.pointer(&format!("/version/qemu/{part}")).and_then(Value::as_u64);
        return Ok(Event::Greeting {
            major: version("major").unwrap_or(0),
            minor: version("minor").unwrap_or(0),
            micro: version("micro").unwrap_or(0),
        });
    }
    if let Some(value) = message.remove("return") {
        return Ok(Event::Return { id, value });
    }
    if let Some(error) = message.get("error") {
        let desc = error.get("desc").and_then(Value::as_str).unwrap_or("unknown error").to_owned();
        return Ok(Event::Error { id, desc });
    }
    match message.get("event").and_then(Value::as_str) {
        Some(name) => Ok(Event::Event { name: name.to_owned(), data: message.get("data").cloned() }),
        None => Err(malformed()),
    }
}

/// A command as QEMU reads it.
#[must_use]
pub fn command(id: u64, name: &str, arguments: Option<Value>) -> Vec<u8> {
    let mut message = json!({ "execute": name, "id": id });
    if let (Some(arguments), Some(object)) = (arguments, message.as_object_mut()) {
        object.insert("arguments".into(), arguments);
    }
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Events that change a VM's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmEvent {
    /// QEMU is about to exit.
    Shutdown {
        /// The guest asked for it.
        guest: bool,
        /// `guest-shutdown`, `host-qmp-quit`, …
        reason: String,
    },
    /// The guest's processors stand still.
    Stop,
    /// They go on.
    Resume,
    /// The machine was reset.
    Reset {
        /// The guest did it.
        guest: bool,
        /// `guest-reset`, `host-qmp-system-reset`, …
        reason: String,
    },
    /// A disk could not be read or written.
    BlockIoError {
        /// The disk's block node: QEMU leaves `device` empty for a disk that was given with `-blockdev`.
        node: String,
        /// The host has no room left.
        nospace: bool,
        /// QEMU stops the guest because of it.
        stops: bool,
    },
    /// The guest's kernel crashed.
    GuestPanicked,
    /// Anything else, by name.
    Other(String),
}

/// What an event means for a VM.
#[must_use]
pub fn classify(name: &str, data: Option<&Value>) -> VmEvent {
    let field = |field: &str| data.and_then(|data| data.get(field));
    match name {
        "SHUTDOWN" => VmEvent::Shutdown {
            guest: field("guest").and_then(Value::as_bool).unwrap_or(false),
            reason: field("reason").and_then(Value::as_str).unwrap_or("").to_owned(),
        },
        "RESET" => VmEvent::Reset {
            guest: field("guest").and_then(Value::as_bool).unwrap_or(false),
            reason: field("reason").and_then(Value::as_str).unwrap_or("").to_owned(),
        },
        "BLOCK_IO_ERROR" => VmEvent::BlockIoError {
            node: field("node-name").and_then(Value::as_str).unwrap_or("").to_owned(),
            nospace: field("nospace").and_then(Value::as_bool).unwrap_or(false),
            stops: field("action").and_then(Value::as_str) == Some("stop"),
        },
        "GUEST_PANICKED" => VmEvent::GuestPanicked,
        "STOP" => VmEvent::Stop,
        "RESUME" => VmEvent::Resume,
        other => VmEvent::Other(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A real conversation with QEMU 10.0.2.
    const TALK: &str = concat!(
        r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}}"#,
        "\r\n",
        r#"{"return": {}, "id": 1}"#,
        "\r\n",
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#,
        "\r\n",
        r#"{"id": 2, "error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}"#,
        "\r\n",
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#,
        "\r\n",
    );

    fn events(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Event>, QmpError> {
        let mut machine = Machine::default();
        let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]).collect();
        bounds.sort_unstable();
        let mut from = 0;
        for to in bounds {
            machine.receive(&bytes[from..to])?;
            from = to;
        }
        Ok(std::iter::from_fn(|| machine.poll_event()).collect())
    }

    #[test]
    fn a_real_conversation_is_read() {
        let got = events(TALK.as_bytes(), &[]).unwrap();
        assert_eq!(got[0], Event::Greeting { major: 10, minor: 0, micro: 2 });
        assert_eq!(got[1], Event::Return { id: Some(1), value: json!({}) });
        assert_eq!(got[2], Event::Event { name: "STOP".into(), data: None });
        assert_eq!(got[3], Event::Error { id: Some(2), desc: "The command x has not been found".into() });
        let Event::Event { name, data } = &got[4] else { panic!("{got:?}") };
        let shutdown = VmEvent::Shutdown { guest: true, reason: "guest-shutdown".into() };
        assert_eq!(classify(name, data.as_ref()), shutdown);
    }

    #[test]
    fn what_changes_a_vms_life_is_told_from_the_rest() {
        let full = json!({"device": "", "node-name": "disk0", "nospace": true, "action": "stop", "operation": "write"});
        let error = |nospace, stops| VmEvent::BlockIoError { node: "disk0".into(), nospace, stops };
        assert_eq!(classify("BLOCK_IO_ERROR", Some(&full)), error(true, true));
        let other = json!({"device": "", "node-name": "disk0", "nospace": false, "action": "report"});
        assert_eq!(classify("BLOCK_IO_ERROR", Some(&other)), error(false, false));
        let reset = json!({"guest": true, "reason": "guest-reset"});
        let expected = VmEvent::Reset { guest: true, reason: "guest-reset".into() };
        assert_eq!(classify("RESET", Some(&reset)), expected);
        assert_eq!(classify("GUEST_PANICKED", None), VmEvent::GuestPanicked);
        assert_eq!(classify("STOP", None), VmEvent::Stop);
        assert_eq!(classify("RESUME", None), VmEvent::Resume);
        assert_eq!(classify("VNC_CONNECTED", None), VmEvent::Other("VNC_CONNECTED".into()));
        for broken in [json!(null), json!([]), json!({"node-name": 1, "nospace": "yes", "action": {}})] {
            let expected = VmEvent::BlockIoError { node: String::new(), nospace: false, stops: false };
            assert_eq!(classify("BLOCK_IO_ERROR", Some(&broken)), expected);
        }
    }

    #[test]
    fn a_command_is_one_line_of_json() {
        let line = command(7, "screendump", Some(json!({"filename": "a\nb"})));
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        let read: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read, json!({"execute": "screendump", "id": 7, "arguments": {"filename": "a\nb"}}));
    }

    #[test]
    fn nonsense_and_endless_lines_are_refused() {
        assert!(matches!(events(b"hello\n", &[]), Err(QmpError::Malformed(_))));
        assert!(matches!(events(b"{\"a\": 1}\n", &[]), Err(QmpError::Malformed(_))));
        assert_eq!(events(&vec![b'x'; LINE_MAX + 1], &[]), Err(QmpError::LineTooLong));
        assert_eq!(events(&"{\"return\": 1}\n".repeat(QUEUE + 1).into_bytes(), &[]), Err(QmpError::TooMany));
    }

    proptest::proptest! {
        #[test]
        fn cutting_the_bytes_changes_nothing(cuts in proptest::collection::vec(0..1000usize, 0..10)) {
            proptest::prop_assert_eq!(events(TALK.as_bytes(), &cuts), events(TALK.as_bytes(), &[]));
        }
    }
}
