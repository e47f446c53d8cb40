//! Promise: a database of the former version is brought up to date with its history counted, and the
//! log says so before and after; a process of that version that still runs goes on beside the new.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::fmt::Write as _;

use sha2::{Digest as _, Sha384};
use support::{Service, Setup, sqlite::Database};

/// The migrations of the former version.
const FORMER: [(&str, &str); 4] = [
    ("core", include_str!("../migrations/0001_core.sql")),
    ("logins", include_str!("../migrations/0002_logins.sql")),
    ("worker", include_str!("../migrations/0003_worker.sql")),
    ("openai", include_str!("../migrations/0004_openai.sql")),
];

/// What it writes when a job is accepted: it knows no `job_seq`.
const ACCEPTED: &str = "INSERT INTO jobs (id, api_key_id, prompt, size, quality, count, created_at, \
     expires_at) VALUES ('img_new', 'a', 'a kite', 'auto', 'auto', 2, 1, 1); \
     INSERT INTO turns (job_id, position) VALUES ('img_new', 0), ('img_new', 1)";

/// 30 jobs of two keys, ten of `a` and twenty of `b`, each with two turns, one of which succeeded.
const HISTORY: &str = "INSERT INTO api_keys (id, name, handle, created_at) \
     VALUES ('a', 'a', 'a', 1), ('b', 'b', 'b', 1), ('unused', 'unused', 'c', 1); \
     WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 30) \
     INSERT INTO jobs (id, api_key_id, prompt, size, quality, count, state, created_at, expires_at, \
     purged_at) SELECT 'img_' || n, CASE WHEN n % 3 = 0 THEN 'a' ELSE 'b' END, 'a kite', 'auto', \
     'auto', 2, 'expired', n, 1, 1 FROM n; \
     INSERT INTO turns (job_id, position, state, finished_at) \
     SELECT id, 0, 'succeeded', 1 FROM jobs UNION ALL SELECT id, 1, 'failed', 1 FROM jobs";

fn former(service: &Service) -> Database {
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
    database
}

#[test]
fn its_history_is_counted_and_the_log_tells() {
    let mut service = Setup::painter().stopped();
    former(&service).run(HISTORY);
    service.start();
    let mut database = Database::of(&service);
    let counted = "SELECT id || ' ' || jobs || ' ' || images FROM api_keys ORDER BY id";
    assert_eq!(database.texts(counted)[..3], ["a 10 10", "b 20 20", "unused 0 0"]);
    let misled = "SELECT count(*) FROM turns LEFT JOIN jobs ON jobs.seq = job_seq \
                  WHERE jobs.id IS NOT job_id";
    assert_eq!(database.number(misled), 0);
    database.run(ACCEPTED);
    assert_eq!(database.number(misled), 0);
    assert_eq!(database.texts(counted)[0], "a 11 10");
    let log = service.log();
    let begins = log.find("bringing the database up to date from=4 to=5");
    let ends = log.find("the database is up to date seconds=");
    assert!(begins.is_some() && begins < ends && ends < log.find("listening"), "{log}");
    service.restart();
    assert_eq!(service.log().matches("the database is up to date").count(), 1);
}

#[test]
fn a_first_start_says_nothing_of_it() {
    let service = Setup::painter().start();
    assert!(!service.log().contains("up to date"), "{}", service.log());
}
