//! Which jobs of the history are wanted, as a query that leads to them by an index wherever there is
//! one.

use sqlx::{QueryBuilder, Sqlite};

use crate::store::jobs::JobState;

/// Jobs that a page looks at where no index leads to those it wants: by reading on from one to the
/// next, and by looking each up elsewhere, which takes ten times as long.
const SPAN: i64 = 100_000;
const LOOK_UP_SPAN: i64 = 5_000;
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

impl HistoryFilter {
    /// The text, when it is looked for in prompts.
    pub(super) fn words(&self) -> Option<&str> {
        self.text.as_deref().filter(|text| !is_id_prefix(text))
    }

    /// The text, when ids begin with it.
    pub(super) fn id_prefix(&self) -> Option<&str> {
        self.text.as_deref().filter(|text| is_id_prefix(text))
    }

    /// The login, when it leads to the jobs: an id does so better.
    pub(super) fn leading_login(&self) -> Option<&str> {
        self.login.as_deref().filter(|_| self.id_prefix().is_none())
    }

    /// How many jobs are looked at, where no index leads to just the rows that are wanted.
    pub(super) fn span(&self) -> Option<i64> {
        let is_read = self.words().is_some();
        let beside_login = self.state.is_some() || self.key.is_some() || is_read;
        match self.leading_login() {
            Some(_) if beside_login => Some(LOOK_UP_SPAN),
            _ => is_read.then_some(SPAN),
        }
    }

    /// The wanted jobs between two places, newest first.
    pub(super) fn query(
        &self,
        columns: &str,
        floor: i64,
        top: i64,
        limit: i64,
    ) -> QueryBuilder<Sqlite> {
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
