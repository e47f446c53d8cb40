//! A line that says how far it is: rewritten in place on a terminal, else one line a phase.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often the seconds are written.
const TICK: Duration = Duration::from_millis(500);

/// Says how far it is, from a thread of its own.
pub(super) struct Progress {
    phase: Arc<Mutex<String>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    terminal: bool,
}

impl Progress {
    /// Starts to say it, when that is wanted.
    pub(super) fn start(wanted: bool, terminal: bool) -> Self {
        let phase = Arc::new(Mutex::new("starting".to_owned()));
        if !wanted {
            return Self { phase, stop: None, thread: None, terminal };
        }
        let (stop, stopped) = mpsc::channel();
        let said = Arc::clone(&phase);
        let thread = thread::spawn(move || say(&said, &stopped, terminal));
        Self { phase, stop: Some(stop), thread: Some(thread), terminal }
    }

    /// From now on it is in this phase.
    pub(super) fn phase(&self, phase: &str) {
        phase.clone_into(&mut self.phase.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Something worth a line of its own, when things are said.
    pub(super) fn say(&self, words: &str) {
        if self.stop.is_some() {
            let line = if self.terminal { "\r\x1b[K" } else { "" };
            let _ = writeln!(io::stderr(), "{line}{words}");
        }
    }

    /// Says nothing any more.
    pub(super) fn finish(mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn say(phase: &Mutex<String>, stopped: &mpsc::Receiver<()>, terminal: bool) {
    let begun = Instant::now();
    let mut last = String::new();
    loop {
        let now = phase.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut stderr = io::stderr().lock();
        // Whoever closed it does not want to know.
        let _ = if terminal {
            write!(stderr, "\r\x1b[K{now}, {} s", begun.elapsed().as_secs())
        } else if now == last {
            Ok(())
        } else {
            writeln!(stderr, "{now}")
        };
        let _ = stderr.flush();
        drop(stderr);
        last = now;
        if stopped.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
            if terminal {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
            return;
        }
    }
}
