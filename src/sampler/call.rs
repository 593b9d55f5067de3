//! One call by minreq, blocking, with a bound on its time, on its answer and on what it may leave behind.
//!
//! minreq has time-outs, but none for a TLS handshake that stops half way, nor for a record that comes byte by byte. So each call has a thread
//! of its own, which is left to itself when its time is over; while too many of those still hang, nobody is called. Redirects are not followed
//! and no error names the address: a bot's token is in it.

use std::io::{ErrorKind, Read};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// The longest answer that is read.
const ANSWER_BYTES: u64 = 64 * 1024;
/// Calls that may hang when another one begins.
const LEFT_BEHIND: usize = 8;
/// The thread of a call. minreq makes one more, which inherits the name.
const THREAD: &str = "telegram-call";
/// What minreq makes of an answer that does not begin as HTTP does.
const NO_STATUS: (u16, &str) = (503, "Server did not provide a status line");
const NO_HTTP: &str = "what answered does not speak HTTP";

/// Sends JSON to `url` and gives status and body of the answer.
///
/// # Errors
/// What went wrong, in words that name no more than `host`.
pub fn json(host: &str, url: &str, body: String, limit: Duration) -> Result<(u16, Vec<u8>), String> {
    if left_behind() >= LEFT_BEHIND {
        return Err(format!("{LEFT_BEHIND} calls to {host} still wait for a TLS handshake"));
    }
    let request = minreq::post(url)
        .with_header("Content-Type", "application/json")
        .with_header("User-Agent", concat!("vmshare/", env!("CARGO_PKG_VERSION")))
        .with_header("Connection", "close")
        .with_body(body)
        .with_timeout(limit.as_secs().max(1))
        .with_follow_redirects(false);
    let (answer, answers) = sync_channel(1);
    let call = move || drop(answer.send(call(request)));
    std::thread::Builder::new().name(THREAD.into()).spawn(call).map_err(|e| format!("no thread for a call: {e}"))?;
    let late = || format!("{host} did not answer within {} seconds", limit.as_secs());
    match answers.recv_timeout(limit) {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(minreq::Error::IoError(e))) if e.kind() == ErrorKind::TimedOut => Err(late()),
        Ok(Err(minreq::Error::InvalidUtf8InResponse)) => Err(NO_HTTP.into()),
        Ok(Err(e)) => Err(format!("{host}: {e}")),
        Err(RecvTimeoutError::Timeout) => Err(late()),
        // It panicked; the log has the place.
        Err(RecvTimeoutError::Disconnected) => Err(format!("the answer of {host} broke the call")),
    }
}

fn call(request: minreq::Request) -> Result<(u16, Vec<u8>), minreq::Error> {
    let mut answer = request.send_lazy()?;
    let status = answer.status_code;
    if (status, &*answer.reason_phrase) == NO_STATUS {
        return Err(minreq::Error::InvalidUtf8InResponse);
    }
    let mut body = Vec::new();
    match answer.by_ref().take(ANSWER_BYTES + 1).read_to_end(&mut body) {
        // A peer that leaves without TLS's farewell; whether the answer is whole its reader sees.
        Err(e) if e.kind() != ErrorKind::UnexpectedEof => Err(e.into()),
        _ if body.len() as u64 > ANSWER_BYTES => Err(std::io::Error::other("the answer has no end").into()),
        _ => Ok((status, body)),
    }
}

/// Threads of calls that were given up and have not ended.
fn left_behind() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks
        .filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == THREAD))
        .count()
}
