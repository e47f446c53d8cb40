//! The store as the tests see it: read behind the service's back.

use std::{fs, path::Path};

use sqlx::{Connection as _, FromRow, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{Service, temp_dir};

/// A job's row.
#[derive(Clone, Debug, FromRow)]
pub struct JobRow {
    /// The order of acceptance.
    pub seq: i64,
    /// The public id.
    pub id: String,
    /// Where it stands.
    pub state: String,
    /// Pictures asked for.
    pub count: i64,
    /// How often it was begun.
    pub attempts: i64,
    /// The code of its failure.
    pub error_code: Option<String>,
    /// When it was first begun, in milliseconds since the epoch.
    pub started_at: Option<i64>,
    /// When it became final, in milliseconds since the epoch.
    pub finished_at: Option<i64>,
}

/// A turn's row.
#[derive(Clone, Debug, FromRow)]
pub struct TurnRow {
    /// The job.
    pub job_id: String,
    /// Which picture.
    pub position: i64,
    /// Where it stands.
    pub state: String,
    /// The login.
    pub login: Option<String>,
    /// Its latest thread.
    pub thread_id: Option<String>,
    /// The code of its failure.
    pub error_code: Option<String>,
}

/// A picture's row.
#[derive(Clone, Debug, FromRow)]
pub struct ImageRow {
    /// The job.
    pub job_id: String,
    /// Which picture.
    pub position: i64,
    /// The file's name.
    pub file: String,
    /// Its size.
    pub bytes: i64,
    /// Its hex SHA-256.
    pub sha256: String,
}

/// A connection to the database.
pub struct Db {
    runtime: tokio::runtime::Runtime,
    connection: SqliteConnection,
    _copy: Option<tempfile::TempDir>,
}

impl Db {
    /// The database itself, whether the service runs or not.
    pub fn of(service: &Service) -> Self {
        Self::open(&Self::path(service), None)
    }

    /// A copy of what a killed service left: looking at the files themselves would repair them,
    /// which is for the service to do.
    pub fn copy_of(service: &Service) -> Self {
        let (dir, path) = (temp_dir(), Self::path(service));
        let name = path.file_name().unwrap().to_owned();
        fs::copy(&path, dir.path().join(&name)).unwrap();
        let mut log = path.into_os_string();
        log.push("-wal");
        let mut log_name = name.clone();
        log_name.push("-wal");
        // None when everything had been written back.
        let _ = fs::copy(log, dir.path().join(log_name));
        Self::open(&dir.path().join(name), Some(dir))
    }

    fn path(service: &Service) -> std::path::PathBuf {
        let entries = fs::read_dir(service.state_dir()).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        let is_database = |path: &std::path::PathBuf| {
            fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"))
        };
        paths.find(is_database).expect("a database in the state directory")
    }

    fn open(path: &Path, copy: Option<tempfile::TempDir>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(std::time::Duration::from_secs(15));
        let connection = runtime.block_on(SqliteConnection::connect_with(&options)).unwrap();
        Self { runtime, connection, _copy: copy }
    }

    fn rows<T>(&mut self, sql: &'static str) -> Vec<T>
    where
        T: for<'row> FromRow<'row, sqlx::sqlite::SqliteRow> + Send + Unpin,
    {
        self.runtime.block_on(sqlx::query_as(sql).fetch_all(&mut self.connection)).unwrap()
    }

    /// All jobs, in the order of acceptance.
    pub fn jobs(&mut self) -> Vec<JobRow> {
        self.rows(
            "SELECT seq, id, state, count, attempts, error_code, started_at, finished_at \
             FROM jobs ORDER BY seq",
        )
    }

    /// One job.
    pub fn job(&mut self, id: &str) -> JobRow {
        self.jobs().into_iter().find(|job| job.id == id).unwrap_or_else(|| panic!("no job {id}"))
    }

    /// All turns.
    pub fn turns(&mut self) -> Vec<TurnRow> {
        self.rows(
            "SELECT job_id, position, state, login, thread_id, error_code FROM turns \
             ORDER BY job_id, position",
        )
    }

    /// All pictures.
    pub fn images(&mut self) -> Vec<ImageRow> {
        self.rows("SELECT job_id, position, file, bytes, sha256 FROM images ORDER BY file")
    }

    /// Makes the store forget the threads of all turns.
    pub fn forget_threads(&mut self) {
        let sql = "UPDATE turns SET login = NULL, thread_id = NULL";
        self.runtime.block_on(sqlx::query(sql).execute(&mut self.connection)).unwrap();
    }

    /// How many jobs are queued or running.
    pub fn open_jobs(&mut self) -> i64 {
        let rows: Vec<(i64,)> =
            self.rows("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')");
        rows[0].0
    }

    /// Panics unless `SQLite` finds the file whole and every reference in it good.
    #[track_caller]
    pub fn assert_intact(&mut self) {
        let found: Vec<(String,)> = self.rows("PRAGMA integrity_check");
        assert_eq!(found, [("ok".to_owned(),)], "integrity_check");
        let broken = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut self.connection);
        assert!(self.runtime.block_on(broken).unwrap().is_empty(), "foreign_key_check");
    }
}
