//! What goes back to a connection: a response as a value, or the protocol it is to speak from now on.

use super::feed::Feed;
use super::relay::Relay;
use crate::proto::problem::Problem;

/// The body.
pub enum Body {
    /// None.
    Empty,
    /// Made for this request.
    Bytes(Vec<u8>),
    /// A part of the binary.
    Static(&'static [u8]),
    /// Events as they happen, in chunks, until either side ends it.
    Events(Feed),
}

impl Body {
    /// Length in bytes, where it is known.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Static(bytes) => Some(bytes.len() as u64),
            Self::Events(_) => None,
        }
    }
}

/// A response.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header fields beside those of the connection (length, date, keep-alive).
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Body,
    /// With status 101: the relay that the connection becomes.
    pub upgrade: Option<Box<Relay>>,
    /// For the log.
    pub about: About,
}

/// Who asked and what it was about, as far as it is known: the log's line of the answer has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The caller's login name.
    pub user: Option<String>,
    /// The VM.
    pub vmid: Option<String>,
}

impl Response {
    /// A response without a body.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Empty, upgrade: None, about: About::default() }
    }

    /// A JSON response.
    #[must_use]
    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self {
            status,
            headers: vec![("content-type", "application/json".into()), ("cache-control", "no-store".into())],
            body: Body::Bytes(body),
            upgrade: None,
            about: About::default(),
        }
    }

    /// Says which VM it was about.
    #[must_use]
    pub fn about_vm(mut self, vmid: &str) -> Self {
        self.about.vmid = Some(vmid.to_owned());
        self
    }

    /// Adds a header field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        let body = problem.to_json();
        let mut headers = problem.headers;
        headers.push(("content-type", "application/problem+json".into()));
        headers.push(("cache-control", "no-store".into()));
        Self { status: problem.status, headers, body: Body::Bytes(body), upgrade: None, about: About::default() }
    }
}
