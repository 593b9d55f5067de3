//! What holds when something breaks off: a connection ends alone, and a request is answered all the same.

use super::Answers;
use crate::metrics::Metrics;
use crate::net::response::{About, Response};
use crate::proto::problem::Problem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The boundary of one connection: a bug in it ends it and nothing else.
pub(super) fn guarded<T>(metrics: &Metrics, act: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(act));
    if result.is_err() {
        metrics.panics.add(1);
        log::error!("a connection panicked and is ended; the others go on");
    }
    result.ok()
}

/// The log's line of an answer, with what is known of who asked and what about.
pub(super) fn log_answer(req: &str, about: &About, line: impl Fn() -> String) {
    const ACCESS: &str = "vmshare::access";
    if !log::log_enabled!(target: ACCESS, log::Level::Info) {
        return;
    }
    let line = line();
    match (about.vmid.as_deref(), about.user.as_deref()) {
        (Some(vmid), Some(user)) => log::info!(target: ACCESS, vmid = vmid, user = user, req = req; "{line}"),
        (Some(vmid), None) => log::info!(target: ACCESS, vmid = vmid, req = req; "{line}"),
        (None, Some(user)) => log::info!(target: ACCESS, user = user, req = req; "{line}"),
        (None, None) => log::info!(target: ACCESS, req = req; "{line}"),
    }
}

/// Answers a request exactly once: when its story breaks off, with 500.
pub(super) struct Reply {
    pub(super) answers: Answers,
    pub(super) id: Option<u64>,
}

impl Reply {
    pub(super) fn give(mut self, response: Response) {
        if let Some(id) = self.id.take() {
            self.answers.borrow_mut().push((id, response));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let problem = Problem::internal("The request broke off; the server's log says why.");
            self.answers.borrow_mut().push((id, problem.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text::Page;
    use crate::reactor::task::Tasks;
    use std::rc::Rc;
    use std::time::Instant;

    #[test]
    fn a_panic_in_a_connection_ends_at_its_boundary_and_is_counted() {
        let metrics = Metrics::default();
        assert_eq!(guarded(&metrics, || 7), Some(7));
        assert_eq!(guarded(&metrics, || -> u8 { panic!("a bug in a connection") }), None);
        let mut page = Page::default();
        metrics.write(&mut page, Instant::now());
        assert!(page.into_text().contains("vmshare_panics_total 1\n"));
    }

    #[test]
    fn a_story_that_breaks_off_still_answers_its_request() {
        let answers = Answers::default();
        let reply = Reply { answers: Rc::clone(&answers), id: Some(3) };
        let mut tasks = Tasks::new(std::sync::Arc::new(|| ()));
        tasks.spawner().spawn("request", async move {
            let _held = &reply;
            panic!("a bug in a handler");
        });
        let (_, panicked) = tasks.run_ready(Instant::now(), 10);
        assert_eq!(panicked, ["request"]);
        let given = answers.borrow();
        assert_eq!(given.iter().map(|(id, response)| (*id, response.status)).collect::<Vec<_>>(), [(3, 500)]);
    }
}
