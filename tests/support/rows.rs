//! What the service's database holds, read while the service runs.

use std::{fmt::Write as _, path::Path};

use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};

use super::Service;

/// The rows of `table`, each an object of its columns, in the order of `order`; the bytes of BLOBs
/// in hexadecimal digits, for JSON cannot hold them.
pub fn of(service: &Service, table: &str, order: &str) -> Vec<Value> {
    let columns = columns(service, table);
    let object = columns.iter().fold(String::new(), |mut object, column| {
        let value = format!("iif(typeof(\"{column}\") = 'blob', hex(\"{column}\"), \"{column}\")");
        write!(object, "'{column}', {value}, ").expect("writing to a string");
        object
    });
    let object = object.trim_end_matches(", ");
    texts(service, &format!("SELECT json_object({object}) FROM \"{table}\" ORDER BY {order}"))
        .iter()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect()
}

/// The turns of a job.
pub fn turns(service: &Service, job: &str) -> Vec<Value> {
    let mut turns = of(service, "turns", "job_id, position");
    turns.retain(|turn| turn["job_id"] == job);
    turns
}

/// Every value of every table, as `table.column` and the value as SQL writes it; the bytes of
/// BLOBs in hexadecimal digits.
pub fn everything(service: &Service) -> Vec<(String, String)> {
    let tables = texts(service, "SELECT name FROM sqlite_schema WHERE type = 'table'");
    let mut values = Vec::new();
    for table in &tables {
        for column in columns(service, table) {
            let found = texts(service, &format!("SELECT quote(\"{column}\") FROM \"{table}\""));
            let name = format!("{table}.{column}");
            values.extend(found.into_iter().map(|value| (name.clone(), value)));
        }
    }
    values
}

fn columns(service: &Service, table: &str) -> Vec<String> {
    texts(service, &format!("SELECT name FROM pragma_table_xinfo('{table}')"))
}

/// The first column of each row.
fn texts(service: &Service, query: &str) -> Vec<String> {
    let path = service.state_dir().join("codex-image-service.db");
    // A thread of its own: a runtime cannot be started inside another one.
    std::thread::scope(|scope| scope.spawn(|| read(&path, query)).join().unwrap())
}

fn read(path: &Path, query: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(path).read_only(true);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let query = sqlx::query(AssertSqlSafe(query.to_owned()));
        let rows: Vec<SqliteRow> = query.fetch_all(&mut connection).await.unwrap();
        rows.iter().map(|row| sqlx::Row::get(row, 0)).collect()
    })
}
