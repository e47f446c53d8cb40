//! Tables `jobs`, `turns` and more as the operator sees them: pages of all jobs by filter.
//!
//! A page is quick at a million rows: what narrows it is found by an index, and where there is none
//! for it (words in prompts, a login together with something else) a page looks at so many jobs and
//! says how far it came.

mod filter;

use std::time::{Duration, Instant};

use sqlx::{FromRow, Row as _};

pub use self::filter::HistoryFilter;
use super::{Store, StoreError, jobs::JobState};
use crate::names::is_job_id;

/// Of the jobs that a page looks at so many are read at once, and none after this time: prompts have up to 128 kB.
const SLICE: i64 = 2_000;
const LONGEST: Duration = Duration::from_millis(150);

/// A job in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub struct HistoryRow {
    /// Its place in the order of acceptance: the cursor.
    pub seq: i64,
    /// The public id.
    pub id: String,
    /// Where it stands.
    pub state: JobState,
    /// The beginning of the prompt, or all of it in an export; hostile.
    pub prompt: String,
    /// There is more of the prompt.
    pub is_cut: bool,
    /// The key's id.
    pub api_key_id: String,
    /// The key's name.
    pub key_name: String,
    /// `WIDTHxHEIGHT` or `auto`.
    pub size: String,
    /// low, medium, high or auto.
    pub quality: String,
    /// How many pictures were asked for.
    pub count: u32,
    /// The code of its failure.
    pub error_code: Option<String>,
    /// The sentence of its failure.
    pub error: Option<String>,
    /// When it was accepted.
    pub created_at: i64,
    /// When its first attempt began.
    pub started_at: Option<i64>,
    /// When it became final.
    pub finished_at: Option<i64>,
    /// The logins that drew for it, joined by commas.
    pub logins: Option<String>,
    /// The files of its pictures that are still there, joined by commas.
    pub files: Option<String>,
}

impl HistoryRow {
    /// The files of its pictures that are still there.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.as_deref().unwrap_or_default().split(',').filter(|file| !file.is_empty())
    }
}

/// A page of the history, newest first.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// The jobs.
    pub rows: Vec<HistoryRow>,
    /// Where the next page begins: before this place.
    pub next: Option<i64>,
    /// The page is not full and yet not the last: so many jobs were looked at.
    pub looked_at: Option<i64>,
}

macro_rules! row_columns {
    ($prompt:literal) => {
        concat!(
            "SELECT j.seq, j.id, j.state, ",
            $prompt,
            ", j.api_key_id, k.name AS key_name, j.size, j.quality, j.count, \
             j.error_code, j.error, j.created_at, j.started_at, j.finished_at, \
             (SELECT group_concat(login) FROM (SELECT DISTINCT login FROM turns \
               WHERE job_id = j.id AND login IS NOT NULL)) AS logins, \
             CASE WHEN j.state = 'succeeded' THEN (SELECT group_concat(file) FROM \
               (SELECT file FROM images WHERE job_id = j.id ORDER BY position)) END AS files "
        )
    };
}

const IN_A_LIST: &str =
    row_columns!("substr(j.prompt, 1, 240) AS prompt, length(j.prompt) > 240 AS is_cut");
const IN_FULL: &str = row_columns!("j.prompt AS prompt, 0 AS is_cut");

impl Store {
    /// A page of all jobs that are not deleted, newest first, beginning before a cursor.
    pub async fn history(
        &self,
        filter: &HistoryFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<HistoryPage, StoreError> {
        self.page(filter, before, limit, false).await
    }

    /// The same with whole prompts, for an export.
    pub async fn history_in_full(
        &self,
        filter: &HistoryFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<HistoryPage, StoreError> {
        self.page(filter, before, limit, true).await
    }

    async fn page(
        &self,
        filter: &HistoryFilter,
        before: Option<i64>,
        limit: u32,
        in_full: bool,
    ) -> Result<HistoryPage, StoreError> {
        let Some((bottom, top)) = self.bounds(filter, before).await? else {
            return Ok(HistoryPage::default());
        };
        let limit = limit as usize;
        let span = filter.span();
        let lowest = span.map_or(bottom, |span| bottom.max(top.saturating_sub(span)));
        let columns = if in_full { IN_FULL } else { IN_A_LIST };
        let begun = Instant::now();
        let (mut rows, mut floor) = (Vec::new(), top);
        // Whoever goes away ends this between two slices: SQLite itself would read on.
        while floor > lowest && rows.len() <= limit && (floor == top || begun.elapsed() < LONGEST) {
            let slice_top = floor;
            floor = span.map_or(lowest, |_| lowest.max(slice_top.saturating_sub(SLICE)));
            let wanted = i64::try_from(limit + 1 - rows.len()).unwrap_or(i64::MAX);
            let mut query = filter.query(columns, floor, slice_top, wanted);
            rows.extend(query.build().fetch_all(&self.slow).await?);
        }
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let (next, looked_at) = if has_more {
            (rows.last().map(|row| row.try_get("seq")).transpose()?, None)
        } else if floor > bottom {
            (Some(floor), Some(top.saturating_sub(floor)))
        } else {
            (None, None)
        };
        let rows: Vec<HistoryRow> = self.all_of_ours("jobs", &rows);
        let rows = rows.into_iter().filter(|row| is_job_id(&row.id)).collect();
        Ok(HistoryPage { rows, next, looked_at })
    }

    /// The places between which the wanted jobs lie: the lower is one of them, the upper is not.
    /// None when there are none. A clock that was set back makes the ends of a range of times
    /// inexact; each row's time is compared as well.
    async fn bounds(
        &self,
        filter: &HistoryFilter,
        before: Option<i64>,
    ) -> Result<Option<(i64, i64)>, StoreError> {
        let (first, last): (Option<i64>, Option<i64>) = sqlx::query_as(
            "SELECT \
             CASE WHEN ?1 IS NULL THEN (SELECT min(seq) FROM jobs) ELSE (SELECT seq FROM jobs \
               WHERE created_at >= ?1 ORDER BY created_at, seq LIMIT 1) END, \
             CASE WHEN ?2 IS NULL THEN (SELECT max(seq) FROM jobs) ELSE (SELECT seq FROM jobs \
               WHERE created_at < ?2 ORDER BY created_at DESC, seq DESC LIMIT 1) END",
        )
        .bind(filter.from)
        .bind(filter.until)
        .fetch_one(&self.slow)
        .await?;
        let (Some(first), Some(last)) = (first, last) else { return Ok(None) };
        let top = before.unwrap_or(i64::MAX).min(last.saturating_add(1));
        Ok((first < top).then_some((first, top)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store with so many jobs of two keys; every third failed, every second is of login `two`.
    async fn store(jobs: i64) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("x.db")).await.unwrap();
        for key in ["a", "b"] {
            store.insert_key(key, &format!("name of {key}"), "cimg_x", key).await.unwrap();
        }
        for (sql, needs) in [
            (
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?) \
                 INSERT INTO jobs (id, api_key_id, prompt, size, quality, count, state, created_at, \
                 expires_at) SELECT printf('img_%032x', n), CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END, \
                 'a kite number ' || n || ' 100%', 'auto', 'auto', 1, \
                 CASE n % 3 WHEN 0 THEN 'failed' ELSE 'succeeded' END, n * 1000, 0 FROM n",
                true,
            ),
            (
                "INSERT INTO turns (job_id, position, job_seq, login) SELECT id, 0, seq, \
                 CASE seq % 2 WHEN 0 THEN 'one' ELSE 'two' END FROM jobs",
                false,
            ),
        ] {
            let query = sqlx::query(sql);
            let query = if needs { query.bind(jobs) } else { query };
            query.execute(&store.write).await.unwrap();
        }
        (dir, store)
    }

    fn seqs(page: &HistoryPage) -> Vec<i64> {
        page.rows.iter().map(|row| row.seq).collect()
    }

    #[tokio::test]
    async fn pages_follow_each_other_without_a_gap_whatever_is_wanted() {
        let (_dir, store) = store(60).await;
        let all = HistoryFilter::default();
        let filters = [
            (all.clone(), 60),
            (HistoryFilter { state: Some(JobState::Failed), ..all.clone() }, 20),
            (HistoryFilter { key: Some("a".into()), ..all.clone() }, 30),
            (HistoryFilter { login: Some("two".into()), ..all.clone() }, 30),
            (HistoryFilter { text: Some("KITE".into()), ..all.clone() }, 60),
            (HistoryFilter { text: Some("number 1".into()), ..all.clone() }, 11),
            (HistoryFilter { text: Some("100%".into()), ..all.clone() }, 60),
            (HistoryFilter { text: Some("_".into()), ..all.clone() }, 0),
            (HistoryFilter { from: Some(10_000), until: Some(20_000), ..all.clone() }, 10),
            (HistoryFilter { from: Some(61_000), ..all.clone() }, 0),
            (HistoryFilter { until: Some(1000), ..all.clone() }, 0),
            (
                HistoryFilter {
                    state: Some(JobState::Failed),
                    key: Some("b".into()),
                    login: Some("two".into()),
                    from: Some(1),
                    until: Some(40_000),
                    text: Some("kite".into()),
                },
                7,
            ),
            (HistoryFilter { text: Some(format!("img_{:030x}", 1)), ..all.clone() }, 0),
            (HistoryFilter { text: Some(format!("img_{:032x}", 17)), ..all }, 1),
        ];
        for (filter, expected) in filters {
            let (mut found, mut before) = (Vec::new(), None);
            loop {
                let page = store.history(&filter, before, 7).await.unwrap();
                found.extend(seqs(&page));
                before = page.next;
                if before.is_none() {
                    break;
                }
            }
            assert_eq!(found.len(), expected, "{filter:?}");
            assert!(found.is_sorted_by(|one, next| one > next), "{found:?}");
        }
    }

    #[tokio::test]
    async fn an_index_leads_to_every_page() {
        let (_dir, store) = store(3).await;
        let explain = format!("EXPLAIN QUERY PLAN {IN_A_LIST}");
        let all = HistoryFilter::default();
        let key = || Some("a".to_owned());
        for (filter, index) in [
            (all.clone(), "jobs_by_seq"),
            (HistoryFilter { state: Some(JobState::Failed), ..all.clone() }, "jobs_by_state"),
            (HistoryFilter { state: Some(JobState::Queued), ..all.clone() }, "jobs_queued"),
            (HistoryFilter { key: key(), ..all.clone() }, "jobs_by_key"),
            (
                HistoryFilter { key: key(), state: Some(JobState::Failed), ..all.clone() },
                "jobs_by_key_and_state",
            ),
            (HistoryFilter { login: Some("one".into()), ..all.clone() }, "turns_by_login"),
            (
                HistoryFilter { text: Some("img_01234567".into()), ..all },
                "COVERING INDEX sqlite_autoindex_jobs_1 (id>? AND id<?)",
            ),
        ] {
            let plan: Vec<(i64, i64, i64, String)> = filter
                .query(&explain, 1, 9, 9)
                .build_query_as()
                .fetch_all(&store.read)
                .await
                .unwrap();
            let plan: Vec<_> = plan.into_iter().map(|step| step.3).collect();
            let plan = plan.join("\n");
            let index = index.replace("jobs_by_seq", "INTEGER PRIMARY KEY");
            assert!(plan.contains(&index), "{filter:?}: {plan}");
            // Those of a row's own turns and files, of which there are few, may be sorted.
            assert!(!plan.contains("SCAN j\n") && !plan.contains("SCAN t\n"), "{filter:?}: {plan}");
            assert!(!plan.contains("USE TEMP B-TREE FOR ORDER BY"), "{filter:?}: {plan}");
        }
    }

    #[tokio::test]
    async fn a_deleted_job_is_forgotten_and_still_counts() {
        let (_dir, store) = store(3).await;
        let id = format!("img_{:032x}", 1);
        assert!(store.delete_job(&id).await.unwrap());
        assert!(!store.delete_job(&id).await.unwrap());
        let page = store.history(&HistoryFilter::default(), None, 9).await.unwrap();
        assert_eq!(seqs(&page), [3, 2]);
        assert!(store.job_details(&id).await.unwrap().is_none());
        let (prompt, state): (String, JobState) =
            sqlx::query_as("SELECT prompt, state FROM jobs WHERE id = ?")
                .bind(&id)
                .fetch_one(&store.read)
                .await
                .unwrap();
        assert_eq!((prompt.as_str(), state), ("", JobState::Expired));
        assert_eq!(store.totals().await.unwrap().jobs, 3);
    }
}
