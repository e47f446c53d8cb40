//! An SQLite file, opened beside the service or without one: to look into it, to change what a
//! test cannot wait for, and to make databases that are not the service's.

use std::path::Path;

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, SqliteConnection,
    sqlite::SqliteConnectOptions,
};
use tokio::runtime::Runtime;

use super::Service;

/// An open database.
pub struct Database {
    runtime: Runtime,
    connection: Option<SqliteConnection>,
}

impl Database {
    /// The service's own, with foreign keys on.
    pub fn of(service: &Service) -> Self {
        Self::open(&service.state_dir().join("codex-image-service.db"))
    }

    /// Any file, made when it is not there, in the journal mode that it has.
    pub fn open(path: &Path) -> Self {
        let options =
            SqliteConnectOptions::new().filename(path).create_if_missing(true).foreign_keys(true);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(options.connect()).unwrap();
        Self { runtime, connection: Some(connection) }
    }

    /// Runs statements; how many rows they changed, or what `SQLite` says against them.
    pub fn try_run(&mut self, sql: &str) -> Result<u64, String> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let connection = self.connection.as_mut().unwrap();
        let done = self.runtime.block_on(query.execute(connection));
        done.map(|done| done.rows_affected()).map_err(|error| error.to_string())
    }

    /// Runs statements that must succeed.
    #[track_caller]
    pub fn run(&mut self, sql: &str) -> u64 {
        self.try_run(sql).unwrap_or_else(|error| panic!("{error}: {sql}"))
    }

    /// The first column of a query, as text; NULL is empty.
    #[track_caller]
    pub fn texts(&mut self, sql: &str) -> Vec<String> {
        let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
        let connection = self.connection.as_mut().unwrap();
        let found = self.runtime.block_on(query.fetch_all(connection));
        let found = found.unwrap_or_else(|error| panic!("{error}: {sql}"));
        // Unchecked: SQLite itself makes a text of a number.
        let texts = found.iter().map(|row| row.get_unchecked::<Option<String>, _>(0));
        texts.map(Option::unwrap_or_default).collect()
    }

    /// The one number that a query gives.
    #[track_caller]
    pub fn number(&mut self, sql: &str) -> i64 {
        let found = self.texts(sql);
        assert_eq!(found.len(), 1, "{sql}");
        found[0].parse().unwrap()
    }

    /// The connection is cut as by a crash: in WAL mode the log stays as it is.
    pub fn crash(mut self, path: &Path) {
        // What a closing connection would take away is put aside and back again.
        let log = super::beside(path, "-wal");
        let (database, unfinished) = (std::fs::read(path).unwrap(), std::fs::read(&log).unwrap());
        self.close();
        std::fs::write(path, database).unwrap();
        std::fs::write(log, unfinished).unwrap();
    }

    fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = self.runtime.block_on(connection.close());
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}
