//! What an interrupted run left. Nothing is looked at before every login that may have been the
//! run's was free once, and what could not be looked at is never taken for nothing.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::task::spawn_blocking;

use super::{
    Failure, FailureCode, Finished, ThreadRef, Turn,
    events::Report,
    exec::{EVENTS, LOGIN, gather, without_a_run},
    failures::Ending,
    harvest,
    login::{Logins, Refused},
    shadow,
};

/// Waits for the run's end, then gathers what it left; see [`super::Engine::recover`].
pub(super) async fn salvage(
    turn: &Turn,
    logins: &Arc<Logins>,
    shadows: &Path,
    known: Option<ThreadRef>,
) -> io::Result<Finished> {
    let (dir, job_id) = (turn.dir.clone(), turn.job_id.clone());
    let (folder, all, also) = (dir.clone(), Arc::clone(logins), known.clone());
    let base = shadows.to_owned();
    let looked = spawn_blocking(move || owners(&folder, &all, &base, also.as_ref()));
    let Some(homes) = looked.await?? else {
        return Ok(Finished { thread: known, ..without_a_run(never_begun()) });
    };
    let mut unsure = false;
    // One after the other and let go at once: the run is over when its lock was free once.
    for &index in &homes {
        if let Err(Refused::Failed(failure)) = logins.over(index).await {
            let (login, why) = (&logins.homes()[index].label, failure.message);
            tracing::error!(job_id, login, why, "a login's lock cannot be waited for");
            unsure = true;
        }
    }
    let (all, base) = (Arc::clone(logins), shadows.to_owned());
    let gathered = spawn_blocking(move || {
        // Only now: until the lock was free the run may have written.
        let mut report = Report::default();
        if let Err(error) = read_events(&dir.join(EVENTS), &mut report) {
            tracing::error!(job_id, %error, "what Codex wrote cannot be read");
            // With its thread read, the rest says only what went wrong.
            unsure |= report.thread.is_none();
        }
        let threads = threads(&all, &base, &homes, &report, known.as_ref());
        gather(&dir, &threads, &report, Ending::Unknown, unsure)
    });
    Ok(gathered.await?)
}

fn never_begun() -> Failure {
    Failure::new(FailureCode::Interrupted, "The service was ended before Codex was started.")
}

/// Whose run it was, the likeliest first: the logins that the folder and the store name, else the
/// homes that know the thread, else each home, for any could still get it. None when there was no
/// run.
fn owners(
    dir: &Path,
    logins: &Logins,
    shadows: &Path,
    known: Option<&ThreadRef>,
) -> io::Result<Option<Vec<usize>>> {
    let label = match fs::read_to_string(dir.join(LOGIN)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        label => Some(label?),
    };
    let labels = label.iter().chain(known.map(|known| &known.login));
    // None when one of them is in the settings no more; its home may be, under another name.
    let named: Option<Vec<usize>> = labels.map(|label| logins.index(label)).collect();
    if let Some(mut named) = named.filter(|named| !named.is_empty()) {
        named.dedup();
        return Ok(Some(named));
    }
    let mut report = Report::default();
    read_events(&dir.join(EVENTS), &mut report)?;
    let thread = report.thread.as_ref().or(known.map(|known| &known.thread));
    let all: Vec<usize> = (0..logins.homes().len()).collect();
    let Some(thread) = thread else {
        return Ok(dir.try_exists()?.then_some(all));
    };
    let mut with: Vec<usize> =
        knowing(logins, shadows, &all, thread)?.into_iter().map(|(index, _)| index).collect();
    with.dedup();
    Ok(Some(if with.is_empty() { all } else { with }))
}

/// Those of the homes, or of their shadows, that have a folder for the thread.
fn knowing(
    logins: &Logins,
    shadows: &Path,
    homes: &[usize],
    thread: &str,
) -> io::Result<Vec<(usize, PathBuf)>> {
    let mut with = Vec::new();
    for &index in homes {
        for place in shadow::places(shadows, &logins.homes()[index].path) {
            if harvest::knows(&place, thread)? {
                with.push((index, place));
            }
        }
    }
    Ok(with)
}

/// The threads of the run, each with the places in which its pictures may be.
fn threads(
    logins: &Logins,
    shadows: &Path,
    homes: &[usize],
    report: &Report,
    known: Option<&ThreadRef>,
) -> Vec<(PathBuf, ThreadRef)> {
    let mut ids: Vec<&String> = report.thread.iter().chain(known.map(|k| &k.thread)).collect();
    ids.dedup();
    let mut threads = Vec::new();
    for id in ids {
        let everywhere = |index: usize| {
            shadow::places(shadows, &logins.homes()[index].path).map(|place| (index, place))
        };
        // Where it cannot be told, the harvest says so once more, and then it counts.
        let mut with = knowing(logins, shadows, homes, id)
            .unwrap_or_else(|_| homes.iter().flat_map(|&index| everywhere(index)).collect());
        if with.is_empty() {
            let stored = known.filter(|known| known.thread == *id);
            let stored = stored.and_then(|known| logins.index(&known.login));
            with.extend(stored.or(homes.first().copied()).map(everywhere).into_iter().flatten());
        }
        threads.extend(with.into_iter().map(|(index, place)| {
            (place, ThreadRef { login: logins.homes()[index].label.clone(), thread: id.clone() })
        }));
    }
    threads
}

/// A file that is not there says nothing: the run had not begun.
fn read_events(path: &Path, report: &mut Report) -> io::Result<()> {
    let mut read = || {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let mut buffer = [0; 16 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => report.feed(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    };
    let result = read();
    report.finish();
    result
}
