//! Work that may never come back, on a thread of its own: a file system whose server is gone lets whoever looks at it wait for ever.
//!
//! It is asked for one thing at a time and not again before it has answered; who asked waits as long as he likes. A thread that hangs costs
//! itself and nothing else, and ends with its question.

use super::Volume;
use super::probe::volume;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How long all volumes together may take before a sample goes on with what was known of them.
const PATIENCE: Duration = Duration::from_millis(250);

/// A thread, and what it answers.
pub struct Aside<A> {
    asked: SyncSender<()>,
    answers: Receiver<A>,
    is_busy: bool,
    /// Its thread is gone: a panic ended it.
    pub is_over: bool,
}

impl<A: Send + 'static> Aside<A> {
    /// A thread that does `work` when it is asked to; it ends with this.
    ///
    /// # Errors
    /// The system's, when no thread can be made.
    pub fn start(name: &str, mut work: impl FnMut() -> A + Send + 'static) -> std::io::Result<Self> {
        let ((asked, questions), (answer, answers)) = (sync_channel(1), sync_channel(1));
        let serve = move || {
            while questions.recv().is_ok() && answer.send(work()).is_ok() {}
        };
        std::thread::Builder::new().name(name.into()).spawn(serve)?;
        Ok(Self { asked, answers, is_busy: false, is_over: false })
    }

    /// Asks, unless it still works; true when it is free to.
    pub fn ask(&mut self) -> bool {
        if !self.is_busy {
            self.is_busy = self.asked.try_send(()).is_ok();
            return self.is_busy;
        }
        false
    }

    /// The answer, when it is there or comes within `patience`.
    pub fn answer(&mut self, patience: Duration) -> Option<A> {
        match self.answers.recv_timeout(patience) {
            Ok(answer) => {
                self.is_busy = false;
                Some(answer)
            }
            Err(e) => {
                self.is_over |= e == RecvTimeoutError::Disconnected;
                None
            }
        }
    }
}

/// A volume's thread, and what it said last.
#[derive(Default)]
struct Known {
    aside: Option<Aside<Option<Volume>>>,
    last: Option<Volume>,
    is_silent: bool,
}

/// The volumes that are watched.
pub struct Volumes {
    paths: Vec<PathBuf>,
    known: HashMap<PathBuf, Known>,
    measure: fn(&Path) -> Option<Volume>,
}

impl Volumes {
    /// Those of these paths.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, known: HashMap::new(), measure: volume }
    }

    /// All that are known, in their order; those that do not answer as they were, and so marked.
    pub fn measure(&mut self) -> Vec<Volume> {
        for path in &self.paths {
            let known = self.known.entry(path.clone()).or_default();
            if known.aside.is_none() {
                let (measure, of) = (self.measure, path.clone());
                known.aside = Aside::start("volume", move || measure(&of)).ok();
            }
            // One that hung the last time is not waited for again.
            known.is_silent = !known.aside.as_mut().is_some_and(Aside::ask);
        }
        let until = Instant::now() + PATIENCE;
        self.paths.iter().filter_map(|path| self.known.get_mut(path)?.look(path, until)).collect()
    }

    /// Those that cannot be measured.
    #[must_use]
    pub fn unknown(&self) -> Vec<&Path> {
        let is_unknown = |path: &&PathBuf| self.known.get(*path).is_none_or(|known| known.last.is_none());
        self.paths.iter().filter(is_unknown).map(PathBuf::as_path).collect()
    }
}

impl Known {
    fn look(&mut self, path: &Path, until: Instant) -> Option<Volume> {
        let patience = if self.is_silent { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
        let was_measured = self.last.as_ref().is_none_or(|last| last.is_measured);
        match self.aside.as_mut().and_then(|aside| aside.answer(patience)) {
            Some(volume) => self.last = volume,
            None => {
                // Another one is asked the next time.
                self.aside.take_if(|aside| aside.is_over);
                self.last.iter_mut().for_each(|last| last.is_measured = false);
                if was_measured && self.last.is_some() {
                    log::warn!(
                        "{} does not answer: what was known of it is kept, and no alert comes of it",
                        path.display()
                    );
                }
            }
        }
        if !was_measured && self.last.as_ref().is_some_and(|last| last.is_measured) {
            log::info!("{} answers again", path.display());
        }
        self.last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Who holds this lets the volume "dead" hang.
    static DEAD: Mutex<()> = Mutex::new(());

    fn some(path: &Path) -> Option<Volume> {
        if path == Path::new("dead") {
            drop(DEAD.lock());
        }
        let path = path.to_owned();
        Some(Volume { path, total: 100, free: 50, percent: 50.0, inodes_percent: 1.0, is_measured: true })
    }

    #[test]
    fn a_volume_that_hangs_keeps_its_last_value_and_holds_up_nobody() {
        let mut volumes = Volumes { measure: some, ..Volumes::new(vec!["dead".into(), "good".into()]) };
        let seen = |all: &[Volume]| all.iter().map(|one| (one.path.clone(), one.is_measured)).collect::<Vec<_>>();
        let wanted = |is_measured| [("dead".into(), is_measured), ("good".into(), true)];
        assert_eq!(seen(&volumes.measure()), wanted(true));
        let hold = DEAD.lock().expect("nobody panics");
        assert_eq!(seen(&volumes.measure()), wanted(false));
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(seen(&volumes.measure()), wanted(false));
        }
        assert!(began.elapsed() < PATIENCE * 10, "it is waited for again and again: {:?}", began.elapsed());
        assert_eq!(volumes.measure()[0].free, 50);
        drop(hold);
        let began = Instant::now();
        while seen(&volumes.measure()) != wanted(true) {
            assert!(began.elapsed() < Duration::from_secs(30), "it does not come back");
        }
    }

    #[test]
    fn what_was_never_measured_is_known_as_such() {
        let mut volumes = Volumes::new(vec!["/tmp".into(), "/nonexistent".into()]);
        assert_eq!(volumes.measure().len(), 1);
        assert_eq!(volumes.unknown(), [Path::new("/nonexistent")]);
    }
}
