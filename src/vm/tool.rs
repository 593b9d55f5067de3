//! A short program as a child of the loop: `qemu-img`. It has a deadline, its output is bounded, and its own words are the error.

use super::process::Process;
use super::real;
use crate::house::Cx;
use crate::proto::problem::Problem;
use crate::sys::child::Spawn;
use crate::sys::pidfd::Exit;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// Runs `args` (the program first) to its end and returns what it wrote.
///
/// # Errors
/// 507 with its last line when it fails, 503 when it took too long: it is killed then.
pub async fn run(cx: &Cx, args: Vec<OsString>) -> Result<String, Problem> {
    run_as(cx, args, false, "The disk could not be worked on").await
}

/// The same for a program that needs rights the server was given.
///
/// # Errors
/// As [`run`].
pub async fn run_with_rights(cx: &Cx, args: Vec<OsString>) -> Result<String, Problem> {
    run_as(cx, args, true, "The host could not be changed").await
}

async fn run_as(cx: &Cx, args: Vec<OsString>, keeps_rights: bool, wrong: &str) -> Result<String, Problem> {
    let started = cx.disk(move || {
        let Some((program, args)) = args.split_first() else { return Err(std::io::ErrorKind::NotFound.into()) };
        Spawn { keeps_rights, ..Spawn::new(program, args, Path::new("/")) }.start()
    });
    let failed = |why: String| Problem::new(507, "disk_failed", format!("{wrong}: {why}"));
    let tool = started.await?.and_then(|child| Process::tool(cx, child)).map_err(|e| failed(e.to_string()))?;
    let limit = Duration::from_secs(cx.config.limits.disk_job_seconds);
    match cx.within(limit, tool.exit.wait()).await {
        Some(Exit::Code(0)) => Ok(tool.answer()),
        Some(exit) => Err(failed(tool.last_line().unwrap_or_else(|| real::exit_text(exit, None)))),
        None => {
            real::kill(cx, &tool).await;
            Err(Problem::unavailable(
                "disk_busy",
                format!("The disk was not done after {} seconds.", limit.as_secs()),
                10,
            ))
        }
    }
}
