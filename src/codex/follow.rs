//! Follows the files that Codex writes while it writes them. The kernel says when there is more
//! (inotify), so that the thread's id is known in the moment it is written and nothing polls.

use std::{
    fs::File,
    io::{self, Read},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    time::Duration,
};

use rustix::{fs::inotify, io::Errno};
use tokio::io::{Interest, unix::AsyncFd};

use super::{events::Report, sys};

/// A run that writes more than this, on either stream, is ended.
const MOST_OUTPUT: u64 = 64 * 1024 * 1024;
/// So much is read before others get their turn on the thread.
const AT_ONCE: usize = 256 * 1024;
/// Inotify instances are few per user (128 by default) and may be used up by others.
const WITHOUT_INOTIFY: Duration = Duration::from_millis(100);

/// How far the reading got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All that is there was read.
    Caught,
    /// There is more to read now.
    More,
    /// The run has written more than any run should.
    TooMuch,
}

/// A run's two output files, read as they grow.
pub(super) struct Follower {
    events: File,
    stderr: File,
    grown: Option<AsyncFd<OwnedFd>>,
}

impl Follower {
    /// Both files exist already; writing may begin at any time after this.
    pub(super) fn new(events: &Path, stderr: &Path) -> io::Result<Self> {
        let grown = watch(&[events, stderr])
            .inspect_err(|error| {
                tracing::warn!(%error, "no inotify; looking at Codex's output in intervals");
            })
            .ok();
        Ok(Self { events: File::open(events)?, stderr: File::open(stderr)?, grown })
    }

    /// Resolves when there may be more to read.
    pub(super) async fn grown(&self) {
        let Some(inotify) = &self.grown else {
            return tokio::time::sleep(WITHOUT_INOTIFY).await;
        };
        // What is pending is taken out, so that the next call waits for news.
        let taken = inotify
            .async_io(Interest::READABLE, |inotify| {
                let mut buffer = [MaybeUninit::uninit(); 1024];
                let mut reader = inotify::Reader::new(inotify, &mut buffer);
                reader.next()?;
                loop {
                    match reader.next() {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(_) => return Ok(()),
                    }
                }
            })
            .await;
        if taken.is_err() {
            tokio::time::sleep(WITHOUT_INOTIFY).await;
        }
    }

    /// Feeds what is new to `report`. The reads come from the page cache, and one call reads a
    /// bounded part, so this may run on an async thread.
    pub(super) fn drain(&mut self, report: &mut Report) -> io::Result<Progress> {
        let progress = self.read(report)?;
        // By size and not by what was read: a flood is written faster than it is read.
        for file in [&self.events, &self.stderr] {
            if file.metadata()?.len() > MOST_OUTPUT {
                return Ok(Progress::TooMuch);
            }
        }
        Ok(progress)
    }

    fn read(&mut self, report: &mut Report) -> io::Result<Progress> {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..AT_ONCE / buffer.len() {
            match self.events.read(&mut buffer) {
                Ok(0) => return Ok(Progress::Caught),
                Ok(count) => report.feed(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Progress::More)
    }
}

fn watch(paths: &[&Path]) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    for path in paths {
        inotify::add_watch(&inotify, *path, inotify::WatchFlags::MODIFY)?;
    }
    sys::readable(inotify)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, time::Instant};

    use super::*;

    #[tokio::test]
    async fn news_is_told_at_once_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let (events, stderr) = (dir.path().join("events"), dir.path().join("stderr"));
        let mut file = File::create(&events).unwrap();
        File::create(&stderr).unwrap();
        let mut follower = Follower::new(&events, &stderr).unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(50), follower.grown()).await;
        assert!(quiet.is_err());

        let begun = Instant::now();
        file.write_all(b"{\"type\":\"turn.completed\"}\n").unwrap();
        follower.grown().await;
        assert!(begun.elapsed() < Duration::from_secs(2));
        let mut report = Report::default();
        assert_eq!(follower.drain(&mut report).unwrap(), Progress::Caught);
        assert!(report.completed);
        let quiet = tokio::time::timeout(Duration::from_millis(50), follower.grown()).await;
        assert!(quiet.is_err());
    }

    #[tokio::test]
    async fn too_much_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (events, stderr) = (dir.path().join("events"), dir.path().join("stderr"));
        File::create(&events).unwrap();
        File::create(&stderr).unwrap().set_len(MOST_OUTPUT + 1).unwrap();
        let mut follower = Follower::new(&events, &stderr).unwrap();
        let progress = follower.drain(&mut Report::default()).unwrap();
        assert_eq!(progress, Progress::TooMuch);
    }
}
