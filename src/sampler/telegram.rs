//! Tells Telegram, on a thread of its own: what waits for the network must not wait for the next sample, nor that for it.
//!
//! Messages wait in a queue of bounded size while Telegram cannot be reached; of two about the same thing only the newer is kept, and when there
//! are too many the oldest is given up. A refusal is final (the settings are wrong, and only a person can mend them); everything else is tried
//! again, with pauses that grow, or as long as the API asks for. The token is part of the path and appears in no log line.

use super::call;
use crate::config;
use crate::proto::telegram::{Message, Verdict, body, verdict};
use crate::proto::url;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Messages that wait.
pub const QUEUE: usize = 64;
/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);
/// Pauses after trouble: first and longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// A message, and what it is about.
pub struct Outgoing {
    /// Of two with the same the newer counts.
    pub about: String,
    /// What is told.
    pub message: Message,
}

/// How it went so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages that arrived.
    pub sent: AtomicU64,
    /// Calls that did not work.
    pub failed: AtomicU64,
    /// Messages given up: refused, or too many.
    pub lost: AtomicU64,
    /// Messages that wait.
    pub waiting: AtomicU64,
}

/// One bot and one chat.
pub struct Bot {
    host: String,
    /// With the token in it: never to be shown.
    url: String,
    chat: String,
    limit: Duration,
}

impl Bot {
    /// The bot of the settings, if they name one and a chat.
    #[must_use]
    pub fn of(settings: &config::Telegram) -> Option<Self> {
        let (token, chat) = (settings.bot_token.as_ref()?, settings.chat_id.clone()?);
        let host = url::host(&settings.api_base)?.to_owned();
        let url = format!("{}/bot{}/sendMessage", settings.api_base, token.reveal());
        Some(Self { host, url, chat, limit: CALL })
    }

    /// Sends one message. Blocks, at most for some seconds.
    #[must_use]
    pub fn send(&self, message: &Message) -> Verdict {
        match self.call(&message.html(), true) {
            // Better without bold than not at all.
            Verdict::Refused { tags: true, .. } => self.call(&message.plain(), false),
            other => other,
        }
    }

    fn call(&self, text: &str, is_html: bool) -> Verdict {
        match call::json(&self.host, &self.url, body(&self.chat, text, is_html), self.limit) {
            Ok((status, body)) => verdict(status, &body),
            Err(why) => Verdict::Trouble(why),
        }
    }
}

/// What waits, and when the next try is.
#[derive(Default)]
struct Waiting {
    queue: VecDeque<Outgoing>,
    next: Option<Instant>,
    pause: Duration,
    troubled: bool,
}

impl Waiting {
    /// Takes a message in; how many were given up for it.
    fn add(&mut self, outgoing: Outgoing) -> u64 {
        let before = self.queue.len();
        self.queue.retain(|other| other.about != outgoing.about);
        let replaced = before - self.queue.len();
        self.queue.push_back(outgoing);
        if self.queue.len() > QUEUE && replaced == 0 {
            self.queue.pop_front();
            return 1;
        }
        0
    }

    /// What comes of an attempt with the first one; true when that is gone.
    fn after(&mut self, verdict: &Verdict, now: Instant) -> bool {
        let wait = match verdict {
            Verdict::Sent | Verdict::Refused { .. } => {
                self.queue.pop_front();
                (self.pause, self.next) = (Duration::ZERO, None);
                return true;
            }
            Verdict::Wait(seconds) => Duration::from_secs(*seconds),
            Verdict::Trouble(_) => {
                self.pause = (self.pause * 2).clamp(PAUSE.0, PAUSE.1);
                self.pause
            }
        };
        self.next = Some(now + wait);
        false
    }
}

/// Starts the thread; it ends when the sender is dropped.
///
/// # Errors
/// The system's, when no thread can be made.
pub fn start(bot: Bot, counts: Arc<Counts>) -> std::io::Result<SyncSender<Outgoing>> {
    let (sender, messages) = sync_channel(QUEUE);
    std::thread::Builder::new().name("telegram".into()).spawn(move || run(&bot, &messages, &counts))?;
    Ok(sender)
}

fn run(bot: &Bot, messages: &Receiver<Outgoing>, counts: &Counts) {
    let mut waiting = Waiting::default();
    loop {
        let now = Instant::now();
        let pause = match (&waiting.next, waiting.queue.is_empty()) {
            (_, true) => None,
            (None, false) => Some(Duration::ZERO),
            (Some(next), false) => Some(next.saturating_duration_since(now)),
        };
        let got = match pause {
            None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(pause) => messages.recv_timeout(pause),
        };
        match got {
            Ok(outgoing) => {
                let lost = waiting.add(outgoing);
                counts.lost.fetch_add(lost, Ordering::Relaxed);
                counts.waiting.store(waiting.queue.len() as u64, Ordering::Relaxed);
                continue;
            }
            // What still waits is lost with the process; it is in the log and in the database.
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let Some(first) = waiting.queue.front() else { continue };
        let verdict = bot.send(&first.message);
        tell(&verdict, &mut waiting, counts);
        waiting.after(&verdict, Instant::now());
        counts.waiting.store(waiting.queue.len() as u64, Ordering::Relaxed);
    }
}

/// Counts, and logs what is new: trouble that goes on is one line.
fn tell(verdict: &Verdict, waiting: &mut Waiting, counts: &Counts) {
    match verdict {
        Verdict::Sent => {
            counts.sent.fetch_add(1, Ordering::Relaxed);
            if std::mem::take(&mut waiting.troubled) {
                log::info!("telegram takes messages again");
            }
            return;
        }
        Verdict::Refused { why, .. } => {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            log::error!(
                "telegram refuses an alert ({why}); look at TG_BOT_TOKEN and TG_CHAT_ID with vmshare check --telegram"
            );
        }
        Verdict::Wait(seconds) => log::info!("telegram asks to wait {seconds} s"),
        Verdict::Trouble(why) if !waiting.troubled => {
            waiting.troubled = true;
            log::warn!("telegram cannot be told, it is tried again: {why}");
        }
        Verdict::Trouble(_) => {}
    }
    counts.failed.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "telegram_tests.rs"]
mod tests;
