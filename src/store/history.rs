//! Tables `jobs`, `turns` and more as the operator sees them: pages of all jobs by filter, one job
//! with everything that is known of it, and deleting.
//!
//! A page is quick at a million rows: what narrows it is found by an index, and where there is none
//! for it (words in prompts, a login together with something else) a page looks at so many jobs and
//! says how far it came.

use std::time::{Duration, Instant};

use sqlx::{Connection, FromRow, QueryBuilder, Sqlite, SqliteConnection};

use super::{Store, StoreError, jobs::JobState, keep_if_well, now};

/// Jobs that a page looks at where no index leads to those it wants: by reading on from one to the
/// next, and by looking each up elsewhere, which takes ten times as long.
const SPAN: i64 = 100_000;
const LOOK_UP_SPAN: i64 = 5_000;
/// Of those so many are read at once, and none after this time: prompts have up to 128 kB.
const SLICE: i64 = 2_000;
const LONGEST: Duration = Duration::from_millis(150);
/// Jobs whose id begins with a text, at most; ids are random.
const SAME_BEGINNING: i64 = 1_000;

/// Which jobs are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    /// In the prompt, ASCII letters in either case; or the beginning of an id.
    pub text: Option<String>,
    /// Where they stand.
    pub state: Option<JobState>,
    /// The id of the caller's key.
    pub key: Option<String>,
    /// The label of a login that drew for them.
    pub login: Option<String>,
    /// Accepted at this time or later, in milliseconds.
    pub from: Option<i64>,
    /// Accepted before this time, in milliseconds.
    pub until: Option<i64>,
}

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

/// Everything of a job.
#[derive(Clone, Debug, FromRow)]
#[allow(missing_docs, reason = "columns of the tables, which say what they are")]
pub struct JobDetails {
    pub id: String,
    pub state: JobState,
    /// Hostile.
    pub prompt: String,
    pub api_key_id: String,
    pub key_name: String,
    pub key_handle: String,
    pub size: String,
    pub quality: String,
    pub background: String,
    pub output_format: Option<String>,
    pub output_compression: Option<u8>,
    /// The caller's own word; hostile.
    pub end_user: Option<String>,
    pub count: u32,
    pub attempts: i64,
    pub error_code: Option<String>,
    pub error: Option<String>,
    pub retry_at: Option<i64>,
    pub not_before: Option<i64>,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub waiting_at: Option<i64>,
    pub starting_at: Option<i64>,
    pub drawing_at: Option<i64>,
    pub saving_at: Option<i64>,
    pub expires_at: i64,
    pub purged_at: Option<i64>,
}

/// A picture of a job that was asked for, and what Codex did about it.
#[derive(Clone, Debug, FromRow)]
#[allow(missing_docs, reason = "columns of the tables, which say what they are")]
pub struct TurnDetails {
    /// From 0.
    pub position: u32,
    /// pending, running, succeeded or failed.
    pub state: String,
    pub login: Option<String>,
    pub thread_id: Option<String>,
    /// Hostile, as the next two.
    pub stdout: Option<String>,
    pub stderr: Option<String>,
    pub note: Option<String>,
    pub error_code: Option<String>,
    pub error: Option<String>,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
}

/// A picture that lies on the disk.
#[derive(Clone, Debug, FromRow)]
#[allow(missing_docs, reason = "columns of the tables, which say what they are")]
pub struct PictureDetails {
    /// From 0.
    pub position: u32,
    pub file: String,
    #[sqlx(rename = "type")]
    pub media_type: String,
    pub bytes: i64,
    pub width: u32,
    pub height: u32,
    /// Whether it is a mask: of references only.
    pub is_mask: bool,
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
            rows.extend(query.build_query_as().fetch_all(&self.slow).await?);
        }
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let rows: Vec<HistoryRow> = rows;
        let (next, looked_at) = if has_more {
            (rows.last().map(|row| row.seq), None)
        } else if floor > bottom {
            (Some(floor), Some(top.saturating_sub(floor)))
        } else {
            (None, None)
        };
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

    /// Everything of a job that is not deleted.
    pub async fn job_details(&self, id: &str) -> Result<Option<JobDetails>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT j.*, k.name AS key_name, k.handle AS key_handle FROM jobs j \
             JOIN api_keys k ON k.id = j.api_key_id WHERE j.id = ? AND j.deleted_at IS NULL",
        )
        .bind(id)
        .fetch_optional(&self.read)
        .await?)
    }

    /// The pictures that were asked for, by position.
    pub async fn turns_of(&self, id: &str) -> Result<Vec<TurnDetails>, StoreError> {
        Ok(sqlx::query_as("SELECT * FROM turns WHERE job_id = ? ORDER BY position")
            .bind(id)
            .fetch_all(&self.read)
            .await?)
    }

    /// The pictures of a job that are shown, by position.
    pub async fn pictures_of(&self, id: &str) -> Result<Vec<PictureDetails>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT i.position, i.file, i.type, i.bytes, i.width, i.height, 0 AS is_mask \
             FROM images i JOIN jobs j ON j.id = i.job_id AND j.state = 'succeeded' \
             WHERE i.job_id = ? ORDER BY i.position",
        )
        .bind(id)
        .fetch_all(&self.read)
        .await?)
    }

    /// The references of a job that is not deleted and whose files are still there, by position.
    pub async fn references_of(&self, id: &str) -> Result<Vec<PictureDetails>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT r.position, r.file, r.type, r.bytes, r.width, r.height, r.role = 'mask' AS is_mask \
             FROM job_references r JOIN jobs j ON j.id = r.job_id AND j.deleted_at IS NULL \
             AND j.purged_at IS NULL WHERE r.job_id = ? ORDER BY r.position",
        )
        .bind(id)
        .fetch_all(&self.read)
        .await?)
    }

    /// Deletes a job from what is shown: one that is open is cancelled, its words and Codex's are
    /// forgotten, and its files are due. What the figures count stays, and so does what makes a
    /// repetition of its request find it: that is not drawn after all. False when there is none.
    pub async fn delete_job(&self, id: &str) -> Result<bool, StoreError> {
        let mut writer = self.write.acquire().await?;
        let outcome = delete(&mut writer, id).await;
        Ok(keep_if_well(writer, outcome).await?)
    }
}

async fn delete(writer: &mut SqliteConnection, id: &str) -> sqlx::Result<bool> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let done = sqlx::query(
        "UPDATE jobs SET deleted_at = ?2, expires_at = min(expires_at, ?2), prompt = '', \
         error = NULL, end_user = NULL, \
         finished_at = coalesce(finished_at, ?2), lease_owner = NULL, lease_until = NULL, \
         generation = generation + (state IN ('queued', 'running')), \
         state = CASE WHEN state IN ('queued', 'running') THEN 'cancelled' \
           WHEN state = 'succeeded' THEN 'expired' ELSE state END \
         WHERE id = ?1 AND deleted_at IS NULL",
    )
    .bind(id)
    .bind(now())
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "UPDATE turns SET stdout = NULL, stderr = NULL, note = NULL, error = NULL WHERE job_id = ?",
    )
    .bind(id)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(done.rows_affected() > 0)
}

impl HistoryFilter {
    /// The text, when it is looked for in prompts.
    fn words(&self) -> Option<&str> {
        self.text.as_deref().filter(|text| !is_id_prefix(text))
    }

    /// The text, when ids begin with it.
    fn id_prefix(&self) -> Option<&str> {
        self.text.as_deref().filter(|text| is_id_prefix(text))
    }

    /// The login, when it leads to the jobs: an id does so better.
    fn leading_login(&self) -> Option<&str> {
        self.login.as_deref().filter(|_| self.id_prefix().is_none())
    }

    /// How many jobs are looked at, where no index leads to just the rows that are wanted.
    fn span(&self) -> Option<i64> {
        let is_read = self.words().is_some();
        let beside_login = self.state.is_some() || self.key.is_some() || is_read;
        match self.leading_login() {
            Some(_) if beside_login => Some(LOOK_UP_SPAN),
            _ => is_read.then_some(SPAN),
        }
    }

    /// The wanted jobs between two places, newest first.
    fn query(&self, columns: &str, floor: i64, top: i64, limit: i64) -> QueryBuilder<Sqlite> {
        let mut query = QueryBuilder::new(columns);
        self.push(&mut query, floor, top);
        let order = if self.leading_login().is_some() { "t.job_seq" } else { "j.seq" };
        query.push(" ORDER BY ").push(order).push(" DESC LIMIT ").push_bind(limit);
        query
    }

    fn push(&self, query: &mut QueryBuilder<Sqlite>, floor: i64, top: i64) {
        // The order of the tables and the index are ours: the planner knows nothing of their sizes.
        if let Some(login) = self.leading_login() {
            query
                .push(
                    "FROM turns t INDEXED BY turns_by_login CROSS JOIN jobs j ON j.seq = t.job_seq \
                     CROSS JOIN api_keys k ON k.id = j.api_key_id \
                     WHERE j.deleted_at IS NULL AND t.login = ",
                )
                .push_bind(login.to_owned())
                .push(" AND t.job_seq >= ")
                .push_bind(floor)
                .push(" AND t.job_seq < ")
                .push_bind(top)
                // A job of several turns is one.
                .push(
                    " AND NOT EXISTS (SELECT 1 FROM turns o WHERE o.job_id = t.job_id \
                     AND o.position < t.position AND o.login = t.login)",
                );
        } else {
            let has_both = self.key.is_some() && self.state.is_some_and(JobState::is_final);
            query
                .push("FROM jobs j ")
                .push(if has_both { "INDEXED BY jobs_by_key_and_state " } else { "" })
                .push(
                    "CROSS JOIN api_keys k ON k.id = j.api_key_id \
                     WHERE j.deleted_at IS NULL AND j.seq >= ",
                )
                .push_bind(floor)
                .push(" AND j.seq < ")
                .push_bind(top);
        }
        if let Some(state) = self.state {
            // Literals, and both of them, for it is by their text that a partial index is found.
            query.push(" AND j.state = '").push(state.as_str()).push("'");
            if state.is_final() {
                query.push(" AND j.state NOT IN ('queued', 'running')");
            }
        }
        if let Some(key) = &self.key {
            query.push(" AND j.api_key_id = ").push_bind(key.clone());
        }
        if let Some(from) = self.from {
            query.push(" AND j.created_at >= ").push_bind(from);
        }
        if let Some(until) = self.until {
            query.push(" AND j.created_at < ").push_bind(until);
        }
        if let Some(words) = self.words() {
            query.push(" AND j.prompt LIKE ").push_bind(like(words)).push(" ESCAPE '\\'");
        }
        if let Some(prefix) = self.id_prefix() {
            query
                .push(" AND j.seq IN (SELECT seq FROM jobs INDEXED BY sqlite_autoindex_jobs_1 WHERE id >= ")
                .push_bind(prefix.to_owned())
                .push(" AND id < ")
                // The character after `f` and the digits.
                .push_bind(format!("{prefix}g"))
                .push(" LIMIT ")
                .push_bind(SAME_BEGINNING)
                .push(")");
            if let Some(login) = &self.login {
                query
                    .push(" AND EXISTS (SELECT 1 FROM turns o WHERE o.job_id = j.id AND o.login = ")
                    .push_bind(login.clone())
                    .push(")");
            }
        }
    }
}

/// `img_` and at least eight of its digits; fewer are looked for in prompts, as anything else is.
fn is_id_prefix(text: &str) -> bool {
    text.strip_prefix("img_").is_some_and(|digits| {
        (8..=32).contains(&digits.len())
            && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The pattern that finds a text anywhere.
fn like(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for character in text.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
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
