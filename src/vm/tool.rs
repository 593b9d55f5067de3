//! A short program as a child of the loop: `qemu-img`. It has a deadline, its output is bounded, and its own words are the error.

use super::process::Process;
use super::real;
use crate::house::Cx;
use crate::proto::problem::Problem;
use crate::sys::child::Spawn;
use crate::sys::pidfd::Exit;
use std::ffi::OsString;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const WORKED: &str = "The disk could not be worked on";

/// Runs `args` (the program first) to its end and returns what it wrote.
///
/// # Errors
/// 507 with its last line when it fails, 503 when it took too long: it is killed then.
pub async fn run(cx: &Cx, args: Vec<OsString>) -> Result<String, Problem> {
    run_as(cx, args, false, WORKED).await
}

/// Runs `args` to its end and returns its code with its last words, or with what it wrote where it complained of nothing.
///
/// # Errors
/// 507 when it did not end by itself, 503 when it took too long.
pub async fn judge(cx: &Cx, args: Vec<OsString>) -> Result<(i32, String), Problem> {
    let (exit, tool) = end(cx, args, false, WORKED).await?;
    match exit {
        Exit::Code(code) => Ok((code, tool.last_line().unwrap_or_else(|| tool.answer()))),
        exit => Err(failed(WORKED, &real::exit_text(exit, None))),
    }
}

/// The same for a program that needs rights the server was given.
///
/// # Errors
/// As [`run`].
pub async fn run_with_rights(cx: &Cx, args: Vec<OsString>) -> Result<String, Problem> {
    run_as(cx, args, true, "The host could not be changed").await
}

async fn run_as(cx: &Cx, args: Vec<OsString>, keeps_rights: bool, wrong: &str) -> Result<String, Problem> {
    match end(cx, args, keeps_rights, wrong).await? {
        (Exit::Code(0), tool) => Ok(tool.answer()),
        (exit, tool) => Err(failed(wrong, &tool.last_line().unwrap_or_else(|| real::exit_text(exit, None)))),
    }
}

fn failed(wrong: &str, why: &str) -> Problem {
    Problem::new(507, "disk_failed", format!("{wrong}: {why}"))
}

/// Its end, however it came, in the time it has.
async fn end(cx: &Cx, args: Vec<OsString>, keeps_rights: bool, wrong: &str) -> Result<(Exit, Rc<Process>), Problem> {
    let started = cx.disk(move || {
        let Some((program, args)) = args.split_first() else { return Err(std::io::ErrorKind::NotFound.into()) };
        Spawn { keeps_rights, ..Spawn::new(program, args, Path::new("/")) }.start()
    });
    let tool = started.await?.and_then(|child| Process::tool(cx, child)).map_err(|e| failed(wrong, &e.to_string()))?;
    let limit = Duration::from_secs(cx.config.limits.disk_job_seconds);
    if let Some(exit) = cx.within(limit, tool.exit.wait()).await {
        return Ok((exit, tool));
    }
    real::kill(cx, &tool).await;
    let detail = format!("The disk was not done after {} seconds.", limit.as_secs());
    Err(Problem::unavailable("disk_busy", detail, 10))
}
