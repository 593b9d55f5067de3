//! Telegram's Bot API as far as alerts need it: a message as HTML and as plain text, the call's body, and what an answer means.
//!
//! A message is lines of pieces, and what a guest, a user or a host may have chosen is escaped in one place. A text that would be too long for
//! Telegram loses whole lines at its end, never half a tag. Answers are not believed: any bytes may come where the API should be.
//!
//! Pure. Sources: core.telegram.org/bots/api (sendMessage, HTML style, ResponseParameters).

use serde_json::{Value, json};
use std::fmt::Write;

/// The longest text Telegram takes, in UTF-16 units; tags are counted here too, to be sure.
pub const TEXT_UNITS: usize = 4096;
/// The longest piece of a line, in characters.
const PIECE_CHARS: usize = 300;
/// Pause after a 429 that names none.
const WAIT_DEFAULT: u64 = 5;
/// Longest pause that is believed.
const WAIT_MAX: u64 = 3600;

/// A part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it is.
    Plain(String),
    /// In bold.
    Bold(String),
    /// In fixed width, to copy.
    Code(String),
}

impl Piece {
    fn parts(&self) -> (&str, &str, &str) {
        match self {
            Self::Plain(text) => ("", text, ""),
            Self::Bold(text) => ("<b>", text, "</b>"),
            Self::Code(text) => ("<code>", text, "</code>"),
        }
    }
}

/// What is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message(pub Vec<Vec<Piece>>);

impl Message {
    /// Adds a line.
    pub fn line(&mut self, pieces: impl IntoIterator<Item = Piece>) {
        self.0.push(pieces.into_iter().collect());
    }

    /// With tags, everything else escaped.
    #[must_use]
    pub fn html(&self) -> String {
        self.written(|piece, out| {
            let (open, text, close) = piece.parts();
            let _ = write!(out, "{open}");
            escape(text, out);
            let _ = write!(out, "{close}");
        })
    }

    /// Without tags, for logs and for an API that refused the tags.
    #[must_use]
    pub fn plain(&self) -> String {
        self.written(|piece, out| cut(piece.parts().1).for_each(|c| out.push(c)))
    }

    fn written(&self, write: impl Fn(&Piece, &mut String)) -> String {
        let (mut text, mut units) = (String::new(), 0);
        for pieces in &self.0 {
            let mut line = String::new();
            pieces.iter().for_each(|piece| write(piece, &mut line));
            units += line.encode_utf16().count() + 1;
            if units > TEXT_UNITS {
                break;
            }
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&line);
        }
        text
    }
}

/// The characters of a piece that are written: no more than it may have, and none that would break its line.
fn cut(text: &str) -> impl Iterator<Item = char> + '_ {
    let more = text.chars().nth(PIECE_CHARS).is_some();
    let kept = text.chars().take(PIECE_CHARS).map(|c| if c.is_control() { ' ' } else { c });
    kept.chain(more.then_some('…'))
}

fn escape(text: &str, out: &mut String) {
    for c in cut(text) {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
}

/// The body of `sendMessage`.
#[must_use]
pub fn body(chat: &str, text: &str, is_html: bool) -> String {
    let mut body = json!({ "chat_id": chat, "text": text, "disable_web_page_preview": true });
    if is_html && let Some(members) = body.as_object_mut() {
        members.insert("parse_mode".into(), json!("HTML"));
    }
    body.to_string()
}

/// What an answer means for the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Sent,
    /// Not now: again after so many seconds.
    Wait(u64),
    /// Never like this.
    Refused {
        /// What the API says.
        why: String,
        /// It may be because of the tags: the plain text is worth a try.
        tags: bool,
    },
    /// Something between here and there is not well; later it may be.
    Trouble(String),
}

/// Reads an answer.
#[must_use]
pub fn verdict(status: u16, body: &[u8]) -> Verdict {
    let said: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let ok = said.get("ok").and_then(Value::as_bool);
    let why = said.get("description").and_then(Value::as_str).map(|text| cut(text).collect::<String>());
    match (status, ok) {
        (200..=299, Some(true)) => Verdict::Sent,
        (429, _) => {
            let wait = said.pointer("/parameters/retry_after").and_then(Value::as_u64).unwrap_or(WAIT_DEFAULT);
            Verdict::Wait(wait.clamp(1, WAIT_MAX))
        }
        (400..=499, Some(false)) => {
            let why = why.unwrap_or_else(|| "no reason given".into());
            Verdict::Refused { tags: status == 400 && why.contains("entities"), why: format!("{status}: {why}") }
        }
        _ => Verdict::Trouble(match why {
            Some(why) => format!("{status}: {why}"),
            None => format!("{status}, and no answer of the Bot API"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_others_chose_is_escaped_and_stays_on_its_line() {
        let mut message = Message::default();
        message.line([Piece::Plain("🚨 ".into()), Piece::Bold("High <CPU>".into()), Piece::Plain(" on a&b".into())]);
        message.line([Piece::Code("x\"\n</code><b>".into())]);
        let html = "🚨 <b>High &lt;CPU&gt;</b> on a&amp;b\n<code>x&quot; &lt;/code&gt;&lt;b&gt;</code>";
        assert_eq!(message.html(), html);
        assert_eq!(message.plain(), "🚨 High <CPU> on a&b\nx\" </code><b>");
    }

    #[test]
    fn a_text_that_is_too_long_loses_whole_lines() {
        let mut message = Message::default();
        for n in 0..100 {
            message.line([Piece::Bold(format!("{n:03} {}", "<".repeat(60)))]);
        }
        let html = message.html();
        assert!(html.encode_utf16().count() <= TEXT_UNITS && html.ends_with("</b>"), "{html}");
        assert!(html.starts_with("<b>000 &lt;") && html.lines().count() > 10);
        message.0.insert(0, vec![Piece::Plain("ä".repeat(10_000))]);
        assert!(message.plain().starts_with(&format!("{}…\n000", "ä".repeat(PIECE_CHARS))));
    }

    #[test]
    fn each_answer_of_the_api_has_its_meaning() {
        assert_eq!(verdict(200, br#"{"ok":true,"result":{}}"#), Verdict::Sent);
        let limited =
            br#"{"ok":false,"error_code":429,"description":"Too Many Requests","parameters":{"retry_after":7}}"#;
        assert_eq!(verdict(429, limited), Verdict::Wait(7));
        assert_eq!(verdict(429, b"<html>"), Verdict::Wait(WAIT_DEFAULT));
        assert_eq!(verdict(429, br#"{"parameters":{"retry_after":99999999}}"#), Verdict::Wait(WAIT_MAX));
        let refused = |status, text: &str, tags| {
            let body = json!({"ok": false, "error_code": status, "description": text}).to_string();
            assert_eq!(verdict(status, body.as_bytes()), Verdict::Refused { why: format!("{status}: {text}"), tags });
        };
        refused(400, "Bad Request: chat not found", false);
        refused(400, "Bad Request: can't parse entities", true);
        refused(401, "Unauthorized", false);
        for (status, body) in [(500, "{}"), (502, "<html>"), (200, "garbage"), (200, "{\"ok\":false}"), (404, "<html>")]
        {
            assert!(matches!(verdict(status, body.as_bytes()), Verdict::Trouble(_)), "{status} {body}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_bounds_or_the_tags(texts in proptest::collection::vec(".{0,400}", 0..60)) {
            let mut message = Message::default();
            for text in &texts {
                message.line([Piece::Bold(text.clone()), Piece::Code(text.clone())]);
            }
            let html = message.html();
            prop_assert!(html.encode_utf16().count() <= TEXT_UNITS);
            let bare = html.replace("<b>", "").replace("</b>", "").replace("<code>", "").replace("</code>", "");
            prop_assert!(!bare.contains(['<', '>']), "{}", bare);
            prop_assert_eq!(html.matches("<b>").count(), html.matches("</b>").count());
        }

        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = verdict(200, &bytes);
        }
    }
}
