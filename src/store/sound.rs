//! What a front wrote of a job that is to be drawn: read within bounds and parsed, all of it, before a
//! worker touches the job.

use std::ops::RangeInclusive;

use sqlx::{FromRow, Row as _, sqlite::SqliteRow};

use super::{
    Store, StoreError,
    claims::{Claim, ClaimedReference, OpenTurn},
    now,
    strangers::{checked, none_of_ours, parsed, short, within},
};
use crate::{
    bounds,
    codex::ThreadRef,
    images::{Format, Output},
    names::{JobId, ReferenceName},
};

/// How often a job can have been begun or changed hands; far from where a number ends.
const COUNTED: RangeInclusive<i64> = 0..=1_000_000_000_000;

/// Jobs that are looked at together behind one that is none of ours.
pub(super) const PAGE: i64 = 50;
/// Queued jobs that are looked at when the queue seems to be full.
const MOST_COUNTED: i64 = 500;

/// A job in which nothing is longer than it may be.
macro_rules! job_columns {
    () => {
        concat!(
            "SELECT seq, ",
            short!("id", 64),
            ", generation, attempts, ",
            short!("prompt", 128000),
            ", ",
            short!("size", 64),
            ", ",
            short!("quality", 64),
            ", ",
            short!("background", 64),
            ", output_format IS NOT NULL AS has_format, ",
            short!("output_format", 64),
            ", output_compression, count, created_at, started_at FROM jobs "
        )
    };
}

/// Queued jobs whose time has come, before `?1`.
pub(super) const WAITING: &str = concat!(
    job_columns!(),
    "WHERE state = 'queued' AND (not_before IS NULL OR not_before <= ?1) AND seq > ?2 \
     ORDER BY seq LIMIT ?3"
);
/// Running jobs that are nobody's any more.
pub(super) const ABANDONED: &str = concat!(
    job_columns!(),
    // By its index, which holds these few: not in the order of the table, which has all.
    "WHERE state = 'running' AND (lease_until < ?1 OR (?4 AND lease_owner <> ?5)) AND +seq > ?2 \
     ORDER BY +seq LIMIT ?3"
);
const QUEUED: &str =
    concat!(job_columns!(), "WHERE state = 'queued' AND seq > ?1 ORDER BY seq LIMIT ?2");
const RUNNING: &str =
    concat!(job_columns!(), "WHERE state = 'running' AND +seq > ?1 ORDER BY +seq LIMIT ?2");

/// A row of `jobs` that could be one of ours.
pub(super) struct Sound {
    pub(super) seq: i64,
    pub(super) claim: Claim,
}

impl FromRow<'_, SqliteRow> for Sound {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let created_at: i64 = row.try_get("created_at")?;
        let started_at: Option<i64> = row.try_get("started_at")?;
        let claim = Claim {
            id: parsed(row, "id", JobId::parse)?,
            generation: within(row, "generation", COUNTED)?,
            attempts: within(row, "attempts", COUNTED)?,
            prompt: checked(row, "prompt", |prompt| !prompt.is_empty() && !prompt.contains('\0'))?,
            size: checked(row, "size", bounds::is_size)?,
            quality: checked(row, "quality", bounds::is_quality)?,
            background: checked(row, "background", bounds::is_background)?,
            output: output(row)?,
            count: u32::try_from(within(row, "count", 1..=i64::from(bounds::MAX_COUNT))?)
                .map_err(|_| none_of_ours("count"))?,
            created_at,
            started_at: started_at.unwrap_or_else(now),
            references: Vec::new(),
            open: Vec::new(),
        };
        Ok(Self { seq: row.try_get("seq")?, claim })
    }
}

fn output(row: &SqliteRow) -> sqlx::Result<Option<Output>> {
    let compression: Option<u8> = row.try_get("output_compression")?;
    let compression = compression.unwrap_or(100);
    if compression > 100 {
        return Err(none_of_ours("output_compression"));
    }
    if !row.try_get::<bool, _>("has_format")? {
        return Ok(None);
    }
    let format = parsed(row, "output_format", Format::of_word)?;
    Ok(Some(Output { format, compression }))
}

impl FromRow<'_, SqliteRow> for ClaimedReference {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            file: parsed(row, "file", ReferenceName::parse)?,
            is_mask: row.try_get("is_mask")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for OpenTurn {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let thread = if row.try_get("has_thread")? {
            let login: &str = row.try_get("login")?;
            let thread = parsed(row, "thread_id", |thread| ThreadRef::parse(login, thread))?;
            Some(thread)
        } else {
            None
        };
        Ok(Self { position: row.try_get("position")?, thread })
    }
}

impl Store {
    /// A job with its references and open turns; None when anything of it is none of ours.
    pub(super) async fn whole(&self, row: &SqliteRow) -> sqlx::Result<Option<Sound>> {
        let seq = row.try_get("seq")?;
        let Some(mut sound) = self.ours("jobs", seq, Sound::from_row(row)) else { return Ok(None) };
        let references = self.references(&sound.claim.id).await?;
        let Some(references) = self.ours("job_references", seq, references) else {
            return Ok(None);
        };
        let open = match self.turns_left(&sound.claim).await? {
            // It would be begun and given back for ever, unless it has ended since it was read.
            Ok(open) if open.is_empty() => {
                if !self.is_unchanged(seq, &sound.claim).await? {
                    return Ok(None);
                }
                Err(none_of_ours("no turn is open"))
            }
            open => open,
        };
        let Some(open) = self.ours("turns", seq, open) else { return Ok(None) };
        (sound.claim.references, sound.claim.open) = (references, open);
        Ok(Some(sound))
    }

    /// Is it open still, and as it was read?
    async fn is_unchanged(&self, seq: i64, claim: &Claim) -> sqlx::Result<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE seq = ? AND generation = ? \
             AND state IN ('queued', 'running'))",
        )
        .bind(seq)
        .bind(claim.generation)
        .fetch_one(&self.read)
        .await
    }

    /// Is any job queued that can be drawn?
    pub async fn has_queued_job(&self) -> Result<bool, StoreError> {
        self.has_sound_job(QUEUED).await
    }

    /// Is any job queued or running that can be drawn?
    pub async fn has_open_job(&self) -> Result<bool, StoreError> {
        Ok(self.has_sound_job(QUEUED).await? || self.has_sound_job(RUNNING).await?)
    }

    /// How many queued jobs nobody is ever going to draw, as far as so many can be looked at; of a
    /// few seconds ago at most.
    pub(crate) async fn queued_strangers(&self) -> sqlx::Result<i64> {
        // Those who ask meanwhile wait for this count instead of making their own.
        let _counting = self.strangers.counting.lock().await;
        if let Some(count) = self.strangers.counted() {
            return Ok(count);
        }
        let (mut after, mut looked_at, mut count) = (i64::MIN, 0, 0);
        while looked_at < MOST_COUNTED {
            let rows = sqlx::query(QUEUED).bind(after).bind(PAGE).fetch_all(&self.read).await?;
            let Some(last) = rows.last() else { break };
            after = last.try_get("seq")?;
            for row in &rows {
                count += i64::from(self.whole(row).await?.is_none());
            }
            looked_at += PAGE;
        }
        self.strangers.count(count);
        Ok(count)
    }

    async fn has_sound_job(&self, sql: &'static str) -> Result<bool, StoreError> {
        let (mut after, mut limit) = (i64::MIN, 1);
        loop {
            let rows = sqlx::query(sql).bind(after).bind(limit).fetch_all(&self.read).await?;
            let Some(last) = rows.last() else { return Ok(false) };
            after = last.try_get("seq")?;
            for row in &rows {
                if self.whole(row).await?.is_some() {
                    return Ok(true);
                }
            }
            limit = PAGE;
        }
    }

    /// The turns of a job that still lack their picture: none when it is over.
    pub async fn open_turns(&self, claim: &Claim) -> Result<Vec<OpenTurn>, StoreError> {
        Ok(self.turns_left(claim).await??)
    }

    async fn turns_left(&self, claim: &Claim) -> sqlx::Result<sqlx::Result<Vec<OpenTurn>>> {
        const TURNS: &str = concat!(
            "SELECT position, login IS NOT NULL AND thread_id IS NOT NULL AS has_thread, ",
            short!("login", 1024),
            ", ",
            short!("thread_id", 1024),
            " FROM turns WHERE job_id = ? AND state IN ('pending', 'running') \
             ORDER BY position LIMIT ?"
        );
        let rows = sqlx::query(TURNS)
            .bind(claim.id.as_str())
            .bind(claim.count + 1)
            .fetch_all(&self.read)
            .await?;
        let turns: sqlx::Result<Vec<OpenTurn>> = rows.iter().map(OpenTurn::from_row).collect();
        Ok(turns.and_then(|turns| match turns.last() {
            Some(last) if last.position >= claim.count => Err(none_of_ours("position")),
            _ => Ok(turns),
        }))
    }

    async fn references(&self, job: &JobId) -> sqlx::Result<sqlx::Result<Vec<ClaimedReference>>> {
        const REFERENCES: &str = concat!(
            "SELECT ",
            short!("file", 64),
            ", role = 'mask' AS is_mask FROM job_references WHERE job_id = ? \
             ORDER BY position LIMIT ?"
        );
        const MOST: usize = bounds::MAX_REFERENCES + 1;
        let rows = sqlx::query(REFERENCES)
            .bind(job.as_str())
            .bind(i64::try_from(MOST).unwrap_or(i64::MAX).saturating_add(1))
            .fetch_all(&self.read)
            .await?;
        if rows.len() > MOST {
            return Ok(Err(none_of_ours("position")));
        }
        Ok(rows.iter().map(ClaimedReference::from_row).collect())
    }
}
