//! What expires, and how row and file go together.
//!
//! A removal is: the row stops showing the picture, the files go, the rows that named them and
//! what Codex said go. Killed anywhere in between, the next clean-up goes on where it stopped; the
//! job itself stays, as history. The pictures that Codex keeps go as soon as their job has ended.
//!
//! Files and folders that no row names go, too, once they are old, and rows forget a picture whose
//! file is gone; but only in a folder that is marked as this database's, and only under names that
//! are exactly ours.

mod report;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use self::report::{Cause, Report, Skipped};
use crate::{
    codex::Engine,
    config::Config,
    names::{
        JobId, is_own_job_id, is_temporary, job_of_picture, picture_of_thumbnail, thumbnail_of,
    },
    state_dir,
    store::{self, Store, StoreError},
};

/// Jobs that are looked up at a time.
const BATCH: u32 = 100;

/// After so many jobs of which something could not be written, the database is what is wrong.
const MOST_FAILURES: u32 = 20;

/// A file without a row may belong to a job that is just being stored; after so long it doesn't.
const ORPHAN_AGE: Duration = Duration::from_hours(1);

/// Where the files lie, and what knows about Codex's.
pub struct Cleaner {
    /// The rows.
    pub store: Store,
    /// Removes what Codex keeps.
    pub engine: Arc<dyn Engine>,
    /// Folder of verified pictures.
    pub generated_dir: PathBuf,
    /// Folder of the jobs' references.
    pub references_dir: PathBuf,
    /// Folder of the turns' own folders.
    pub workdir: PathBuf,
    /// Folder of the small pictures that the admin pages make of the verified ones.
    pub thumbnails_dir: PathBuf,
}

/// What became of the files of a deleted job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// They are gone.
    Done,
    /// There was no such job, or nothing of it.
    Nothing,
    /// Some could not be removed; the clean-up tries again.
    Partly,
}

impl Cleaner {
    /// For the folders of the settings.
    #[must_use]
    pub fn new(config: &Config, store: Store, engine: Arc<dyn Engine>) -> Self {
        Self {
            store,
            engine,
            generated_dir: config.generated_dir.clone(),
            references_dir: config.references_dir(),
            workdir: config.codex_workdir.clone(),
            thumbnails_dir: config.thumbnails_dir(),
        }
    }

    /// Removes the files of a job that the operator deleted, before the clean-up comes to it.
    pub async fn remove_deleted(&self, id: &JobId) -> Result<Removal, StoreError> {
        if !self.store.is_deleted_with_files(id).await? {
            return Ok(Removal::Nothing);
        }
        let gone = self.purge(id, false, &mut Report::default()).await?;
        Ok(if gone { Removal::Done } else { Removal::Partly })
    }

    /// Removes everything whose time is over; with `dry_run` only counts it.
    async fn run_into(&self, dry_run: bool, report: &mut Report) -> Result<(), StoreError> {
        // What could not be written of a job keeps nothing else from being cleaned up.
        let expired = self.expire(dry_run, report).await;
        let instance = self.store.instance().await?;
        if is_marked(&self.generated_dir, &instance, report).await {
            self.orphan_files(dry_run, report).await?;
            self.orphan_rows(&instance, dry_run, report).await?;
        }
        if is_marked(&self.references_dir, &instance, report).await {
            self.orphan_folders(Folders::References, dry_run, report).await?;
        }
        if is_marked(&self.workdir, &instance, report).await {
            self.orphan_folders(Folders::Work, dry_run, report).await?;
        }
        self.thumbnails(dry_run, report).await?;
        self.threads(dry_run, report).await?;
        expired
    }

    async fn expire(&self, dry_run: bool, report: &mut Report) -> Result<(), StoreError> {
        let now = store::now();
        let mut after = (i64::MIN, i64::MIN);
        let (mut failed, mut failures) = (None, 0);
        loop {
            let page = self.store.expired_jobs(now, after, BATCH).await?;
            let Some(next) = page.next else { return failed.map_or(Ok(()), Err) };
            after = next;
            for id in &page.ids {
                let Err(error) = self.purge(id, dry_run, report).await else { continue };
                let job_id = id.as_str();
                tracing::error!(job_id, %error, "what is past its time could not be removed");
                failures += 1;
                if failures == MOST_FAILURES {
                    return Err(error);
                }
                failed.get_or_insert(error);
            }
        }
    }

    /// Removes all that lies on the disk of one job, which is final and its time over. False when
    /// something of it is still there.
    async fn purge(
        &self,
        id: &JobId,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<bool, StoreError> {
        let Some(files) = self.store.files_of(id).await? else { return Ok(false) };
        report.expired_jobs += 1;
        report.images += files.len() as u64;
        for file in &files {
            report.add(file.bytes);
        }
        for file in &files {
            report.add(file_bytes(&self.thumbnails_dir.join(thumbnail_of(&file.file))).await);
        }
        report.add(folder_bytes(self.references_dir.join(id)).await);
        report.add(folder_bytes(self.workdir.join(id)).await);
        if dry_run {
            return Ok(false);
        }
        self.store.mark_expired(id).await?;
        let mut gone = true;
        for file in &files {
            gone &= remove_file(&self.generated_dir.join(&file.file)).await;
            gone &= remove_file(&self.thumbnails_dir.join(thumbnail_of(&file.file))).await;
        }
        gone &= remove_folder(&self.references_dir.join(id)).await;
        gone &= remove_folder(&self.workdir.join(id)).await;
        // What could not be removed is tried again by the next clean-up.
        if gone {
            self.store.mark_purged(id).await?;
        }
        Ok(gone)
    }

    /// Pictures that no row names: a crash came between file and row.
    async fn orphan_files(&self, dry_run: bool, report: &mut Report) -> Result<(), StoreError> {
        let Some(mut entries) = entries(&self.generated_dir, report).await else { return Ok(()) };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let job = job_of_picture(&name);
            if job.is_none() && !is_temporary(&name) {
                continue;
            }
            let Some(found) = old_entry(&entry).await else { continue };
            if found.is_dir() || self.store.needs_file(&name, job.unwrap_or_default()).await? {
                continue;
            }
            report.orphan_files += 1;
            report.add(found.len());
            if !dry_run {
                remove_file(&entry.path()).await;
            }
        }
        Ok(())
    }

    /// Rows whose file somebody removed by hand.
    async fn orphan_rows(
        &self,
        instance: &str,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let now = store::now();
        let mut after = Vec::new();
        loop {
            let page = self.store.shown_files(now, &after, BATCH).await?;
            let Some(next) = page.next else { return Ok(()) };
            after = next;
            for row in &page.files {
                let path = self.generated_dir.join(&row.file);
                // Only a clear "not there" counts: a folder that can't be read says nothing.
                if matches!(tokio::fs::try_exists(path).await, Ok(true) | Err(_)) {
                    continue;
                }
                // Nor one that was unmounted meanwhile.
                if check_marker(&self.generated_dir, instance).await.is_err() {
                    return Ok(());
                }
                report.orphan_rows += 1;
                if !dry_run {
                    self.store.forget_image(row).await?;
                }
            }
        }
    }

    /// Folders named after jobs that there are not, or that have no more use for them: references
    /// are kept for as long as the pictures, work folders until the job ends.
    async fn orphan_folders(
        &self,
        kind: Folders,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let parent = match kind {
            Folders::References => &self.references_dir,
            Folders::Work => &self.workdir,
        };
        let Some(mut entries) = entries(parent, report).await else { return Ok(()) };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let Some(found) = old_entry(&entry).await else { continue };
            if !is_own_job_id(&name) || !found.is_dir() {
                continue;
            }
            let is_used = match kind {
                Folders::References => self.store.is_live(&name).await?,
                Folders::Work => self.store.is_open(&name).await?,
            };
            if is_used {
                continue;
            }
            report.orphan_files += 1;
            report.add(folder_bytes(entry.path()).await);
            if !dry_run {
                remove_folder(&entry.path()).await;
            }
        }
        Ok(())
    }

    /// Thumbnails of pictures that no row names, and what was left of making one. The folder needs no
    /// mark: whatever is missed there is made again.
    async fn thumbnails(&self, dry_run: bool, report: &mut Report) -> Result<(), StoreError> {
        // Before the first start of a version that knows it.
        if matches!(tokio::fs::try_exists(&self.thumbnails_dir).await, Ok(false)) {
            return Ok(());
        }
        let Some(mut entries) = entries(&self.thumbnails_dir, report).await else { return Ok(()) };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let found = match picture_of_thumbnail(&name) {
                Some(picture) if self.store.needs_file(picture, "").await? => continue,
                Some(_) => entry.metadata().await.ok(),
                None if is_temporary(&name) => old_entry(&entry).await,
                None => continue,
            };
            let Some(found) = found.filter(|found| !found.is_dir()) else { continue };
            report.orphan_files += 1;
            report.add(found.len());
            if !dry_run {
                remove_file(&entry.path()).await;
            }
        }
        Ok(())
    }

    /// What Codex still keeps of our finished threads; those of others are not touched.
    async fn threads(&self, dry_run: bool, report: &mut Report) -> Result<(), StoreError> {
        for thread in self.engine.kept_threads().await {
            if !self.store.is_finished_thread(&thread.thread).await? {
                continue;
            }
            report.codex_threads += 1;
            if !dry_run {
                removed(self.engine.forget(&thread).await, Path::new(&thread.thread));
            }
        }
        Ok(())
    }
}

/// Folders that hold one for each job.
#[derive(Clone, Copy)]
enum Folders {
    References,
    /// Normally removed when the job ends; a crash may come first.
    Work,
}

async fn remove_file(path: &Path) -> bool {
    removed(tokio::fs::remove_file(path).await, path)
}

/// Of a link only itself goes, not what it leads to.
async fn remove_folder(path: &Path) -> bool {
    removed(tokio::fs::remove_dir_all(path).await, path)
}

/// True when it is gone, by us or before; anything else goes to the log.
fn removed(result: io::Result<()>, what: &Path) -> bool {
    match result {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => {
            let what = what.display();
            tracing::warn!(%what, %error, "what is past its time could not be removed");
            false
        }
    }
}

/// Looks whether the folder is this database's; if not, reports it, and to the log.
async fn is_marked(folder: &Path, instance: &str, report: &mut Report) -> bool {
    let Err(reason) = check_marker(folder, instance).await else { return true };
    report.skip(folder, reason, state_dir::advice(folder, instance));
    false
}

async fn check_marker(folder: &Path, instance: &str) -> Result<(), String> {
    let (folder, instance) = (folder.to_owned(), instance.to_owned());
    tokio::task::spawn_blocking(move || state_dir::check_marker(&folder, &instance))
        .await
        .unwrap_or_else(|panic| Err(panic.to_string()))
}

/// What lies in a folder. One that cannot be read is reported: the rest is cleaned up all the same.
async fn entries(folder: &Path, report: &mut Report) -> Option<tokio::fs::ReadDir> {
    match tokio::fs::read_dir(folder).await {
        Ok(entries) => Some(entries),
        Err(error) => {
            report.skip(folder, error.to_string(), "Can this user read it?".to_owned());
            None
        }
    }
}

/// An entry that nobody has touched for a while; of a link, the link itself.
async fn old_entry(entry: &tokio::fs::DirEntry) -> Option<std::fs::Metadata> {
    let metadata = entry.metadata().await.ok()?;
    let age = SystemTime::now().duration_since(metadata.modified().ok()?).ok()?;
    (age >= ORPHAN_AGE).then_some(metadata)
}

/// Bytes of a file that may be there; of a link, its own.
async fn file_bytes(path: &Path) -> u64 {
    tokio::fs::symlink_metadata(path).await.map_or(0, |found| found.len())
}

/// Bytes of the files in a folder and the folders in it.
async fn folder_bytes(path: PathBuf) -> u64 {
    fn sum(path: &Path) -> u64 {
        let Ok(entries) = std::fs::read_dir(path) else { return 0 };
        entries
            .flatten()
            .map(|entry| match entry.file_type() {
                Ok(kind) if kind.is_dir() => sum(&entry.path()),
                Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |file| file.len()),
                _ => 0,
            })
            .fold(0, u64::saturating_add)
    }
    let sum = move || {
        // What a link leads to is not ours.
        let is_folder = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        if is_folder { sum(&path) } else { 0 }
    };
    tokio::task::spawn_blocking(sum).await.unwrap_or(0)
}
