//! Tests of the thread that tells Telegram, also against a Bot API on loopback.

use super::*;
use crate::proto::telegram::Piece;
use bot_api::{Act, BotApi, CHAT, TOKEN};
use std::net::TcpListener;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[allow(dead_code, unreachable_pub)]
#[path = "../../tests/common/bot_api.rs"]
mod bot_api;

const SECOND: Duration = Duration::from_secs(1);

/// Calls that hang are counted by process, so one test calls at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    crate::net::tls::use_ring();
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bot(base: &str) -> Bot {
    let (api_base, chat_id) = (base.to_owned(), Some(CHAT.to_owned()));
    let bot_token = Some(config::Secret::new(TOKEN));
    Bot { limit: SECOND, ..Bot::of(&config::Telegram { bot_token, chat_id, api_base }).expect("a bot") }
}

fn saying(about: &str, text: &str) -> Outgoing {
    let mut message = Message::default();
    message.line([Piece::Bold(text.into())]);
    Outgoing { about: about.into(), message }
}

/// Waits until `what` is there.
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Some(found) => return found,
            None if began.elapsed() > SECOND * 60 => panic!("never: {what}"),
            None => std::thread::sleep(SECOND / 100),
        }
    }
}

fn about(name: impl Into<String>) -> Outgoing {
    Outgoing { about: name.into(), message: Message::default() }
}

#[test]
fn of_two_about_the_same_the_newer_waits_and_too_many_cost_the_oldest() {
    let mut waiting = Waiting::default();
    assert_eq!((0..QUEUE as u64).map(|n| waiting.add(about(n.to_string()))).sum::<u64>(), 0);
    assert_eq!((waiting.add(about("3")), waiting.queue.len()), (0, QUEUE));
    assert_eq!(waiting.queue.back().map(|one| one.about.as_str()), Some("3"));
    assert_eq!((waiting.add(about("new")), waiting.queue.len()), (1, QUEUE));
    assert_eq!(waiting.queue.front().map(|one| one.about.as_str()), Some("1"));
}

#[test]
fn pauses_grow_with_trouble_and_are_as_long_as_the_api_asks() {
    let now = Instant::now();
    let trouble = Verdict::Trouble("x".into());
    let mut waiting = Waiting::default();
    waiting.add(about("a"));
    let mut pauses = Vec::new();
    for _ in 0..11 {
        assert!(!waiting.after(&trouble, now));
        pauses.push((waiting.next.expect("a next try") - now).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    assert!(!waiting.after(&Verdict::Wait(7), now));
    assert_eq!(waiting.next, Some(now + Duration::from_secs(7)));
    assert!(waiting.after(&Verdict::Sent, now) && waiting.queue.is_empty());
    waiting.add(about("b"));
    assert!(!waiting.after(&trouble, now));
    assert_eq!(waiting.next, Some(now + PAUSE.0), "the pauses begin anew");
}
#[test]
fn a_peer_that_hangs_or_gives_byte_by_byte_is_given_up_in_time_and_called_again() {
    let _alone = alone();
    let (api, counts) = (BotApi::start(), Arc::new(Counts::default()));
    api.plan(&[Act::Hang, Act::Drip]);
    let sender = start(bot(&api.base()), Arc::clone(&counts)).expect("a thread");
    sender.send(saying("cpu host", "it burns")).expect("room");
    until("it arrived", || (counts.sent.load(Ordering::Relaxed) == 1).then_some(()));
    let at: Vec<Instant> = api.asked().iter().map(|one| one.at).collect();
    let [hung, dripped, took] = at.as_slice() else { panic!("{at:?}") };
    // A second's limit, and pauses of one and two seconds.
    for (pause, least) in [(*dripped - *hung, 2), (*took - *dripped, 3)] {
        assert!((SECOND * least - SECOND / 20..SECOND * (least + 4)).contains(&pause), "{pause:?}");
    }
    assert_eq!(counts.failed.load(Ordering::Relaxed), 2);
}

#[test]
fn of_an_alert_and_its_end_during_a_call_that_hangs_only_the_end_arrives() {
    let _alone = alone();
    let (api, counts) = (BotApi::start(), Arc::new(Counts::default()));
    api.plan(&[Act::Hang]);
    let sender = start(bot(&api.base()), Arc::clone(&counts)).expect("a thread");
    sender.send(saying("cpu host", "fired")).expect("room");
    until("the call hangs", || api.asked().first().cloned());
    sender.send(saying("cpu host", "over")).expect("room");
    until("something arrived", || (counts.sent.load(Ordering::Relaxed) == 1).then_some(()));
    assert_eq!(api.texts(), ["<b>fired</b>", "<b>over</b>"]);
    assert_eq!((counts.waiting.load(Ordering::Relaxed), counts.lost.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn a_handshake_that_hangs_costs_its_time_and_not_too_many_are_left_behind() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let base = format!("https://localhost:{}", listener.local_addr().expect("address").port());
    let bots: Vec<_> = (0..4).map(|_| bot(&base)).collect();
    let message = saying("a", "b").message;
    let began = Instant::now();
    let all = std::thread::scope(|scope| {
        let calls: Vec<_> = bots.iter().map(|bot| scope.spawn(|| bot.send(&message))).collect();
        calls.into_iter().map(|call| call.join().expect("no panic")).collect::<Vec<_>>()
    });
    let late = Verdict::Trouble("localhost did not answer within 1 seconds".into());
    assert_eq!(all, [late.clone(), late.clone(), late.clone(), late]);
    assert!(began.elapsed() < SECOND * 4, "{:?}", began.elapsed());
    // Whatever was left behind hangs in the handshake still; more and more of them are refused.
    let refused = until("no more are begun", || match bot(&base).send(&message) {
        Verdict::Trouble(why) if why.contains("still wait for a TLS handshake") => Some(why),
        other => panic_unless_late(&other),
    });
    assert!(!refused.contains(TOKEN) && refused.contains("localhost"), "{refused}");
    drop(listener);
    until("they ended with their peer", || {
        matches!(bot(&base).send(&message), Verdict::Trouble(why) if !why.contains("still wait")).then_some(())
    });
}

fn panic_unless_late<T>(verdict: &Verdict) -> Option<T> {
    assert!(matches!(verdict, Verdict::Trouble(why) if why.contains("did not answer")), "{verdict:?}");
    None
}

#[test]
fn answers_without_end_redirects_and_broken_ones_are_trouble_without_the_token() {
    let _alone = alone();
    let api = BotApi::start();
    for (act, wanted) in [
        (Act::Endless, "the answer has no end"),
        (Act::LongHeader, "127.0.0.1"),
        (Act::Garbage, "does not speak HTTP"),
        (Act::Close, "does not speak HTTP"),
        (Act::Redirect, "302, and no answer of the Bot API"),
    ] {
        api.plan(&[act]);
        let said = bot(&api.base()).send(&saying("a", "b").message);
        let Verdict::Trouble(why) = said else { panic!("{act:?}: {said:?}") };
        assert!(why.contains(wanted) && !why.contains(TOKEN), "{act:?}: {why}");
    }
    assert_eq!(api.asked().len(), 5, "a redirect was followed");
}
