//! `?q=`, `?limit=` and `?before=` of lists that are told page by page, newest first.

use crate::proto::problem::Problem;
use crate::proto::url::Query;

/// Rows of a page unless fewer are asked for; more are not to be had.
pub const PAGE: i64 = 100;

/// Longest text that is looked for.
const WORDS: usize = 200;

/// What is looked for, in lower case; nothing is everything.
///
/// # Errors
/// 422 for what is too long.
pub fn words(query: &Query) -> Result<String, Problem> {
    let words = query.get("q").unwrap_or("").trim().to_lowercase();
    if words.len() <= WORDS && !words.contains('\0') {
        Ok(words)
    } else {
        Err(Problem::unprocessable("q", format!("must be a text of at most {WORDS} bytes")))
    }
}

/// How many rows are asked for.
///
/// # Errors
/// 422 beyond the bounds.
pub fn limit(query: &Query) -> Result<i64, Problem> {
    let Some(text) = query.get("limit") else { return Ok(PAGE) };
    let limit = text.parse().ok().filter(|limit| (1..=PAGE).contains(limit));
    limit.ok_or_else(|| Problem::unprocessable("limit", format!("must be a number from 1 to {PAGE}")))
}

/// Before which row the page begins, where rows are numbered.
///
/// # Errors
/// 422 for what is no number.
pub fn before(query: &Query) -> Result<Option<i64>, Problem> {
    let before = query.get("before").map(str::parse).transpose();
    before.map_err(|_| Problem::unprocessable("before", "must be what next of the page before says"))
}
