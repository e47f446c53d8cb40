//! A database as the former version left it.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha384};

use super::{Service, sqlite::Database};

/// The migrations of the former version.
const FORMER: [(&str, &str); 4] = [
    ("core", include_str!("../../migrations/0001_core.sql")),
    ("logins", include_str!("../../migrations/0002_logins.sql")),
    ("worker", include_str!("../../migrations/0003_worker.sql")),
    ("openai", include_str!("../../migrations/0004_openai.sql")),
];

/// 30 jobs of two keys, ten of `a` and twenty of `b`, each with two turns, one of which succeeded.
const HISTORY: &str = "INSERT INTO api_keys (id, name, handle, created_at) \
     VALUES ('a', 'a', 'a', 1), ('b', 'b', 'b', 1), ('unused', 'unused', 'c', 1); \
     WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 30) \
     INSERT INTO jobs (id, api_key_id, prompt, size, quality, count, state, created_at, expires_at, \
     purged_at) SELECT 'img_' || n, CASE WHEN n % 3 = 0 THEN 'a' ELSE 'b' END, 'a kite', 'auto', \
     'auto', 2, 'expired', n, 1, 1 FROM n; \
     INSERT INTO turns (job_id, position, state, finished_at) \
     SELECT id, 0, 'succeeded', 1 FROM jobs UNION ALL SELECT id, 1, 'failed', 1 FROM jobs";

/// How many migrations there are.
pub fn migrations() -> i64 {
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    folder.count().try_into().unwrap()
}

/// Makes the service's database, of the former version and with a history.
pub fn make(service: &Service) {
    let mut database = Database::open(&service.state_dir().join("codex-image-service.db"));
    database.run(
        "PRAGMA journal_mode = WAL; CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, \
         description TEXT NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)",
    );
    for (version, (name, sql)) in (1..).zip(FORMER) {
        database.run(sql);
        let checksum = Sha384::digest(sql).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        database.run(&format!(
            "INSERT INTO _sqlx_migrations VALUES ({version}, '{name}', '2026-01-01', TRUE, \
             x'{checksum}', 1)"
        ));
    }
    database.run(HISTORY);
}
