//! A database that does not answer: PostgreSQL's processes, stopped.

use super::Server;
use std::process::Command;

/// A server's own PostgreSQL, silent until this is dropped.
pub struct Frozen(Vec<String>);

impl Frozen {
    pub fn new(server: &Server) -> Self {
        let text =
            std::fs::read_to_string(server.base().join("postgres/data/postmaster.pid")).expect("PostgreSQL runs");
        let postmaster = text.lines().next().expect("pid").trim().to_owned();
        let children = Command::new("pgrep").args(["-P", &postmaster]).output().expect("pgrep");
        let children = String::from_utf8(children.stdout).expect("numbers");
        let pids = std::iter::once(postmaster).chain(children.lines().map(str::to_owned)).collect();
        Self::signal("-STOP", &pids);
        Self(pids)
    }

    fn signal(name: &str, pids: &Vec<String>) {
        // One of them may have ended meanwhile.
        let _ = Command::new("kill").arg(name).args(pids).stderr(std::process::Stdio::null()).status();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        Self::signal("-CONT", &self.0);
    }
}
