//! Promise: a database of the former version is brought up to date with its history counted, and the
//! log says so before and after; a process of that version that still runs goes on beside the new.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use support::{Setup, former, sqlite::Database};

/// What it writes when a job is accepted: it knows no `job_seq`.
const ACCEPTED: &str = "INSERT INTO jobs (id, api_key_id, prompt, size, quality, count, created_at, \
     expires_at) VALUES ('img_new', 'a', 'a kite', 'auto', 'auto', 2, 1, 1); \
     INSERT INTO turns (job_id, position) VALUES ('img_new', 0), ('img_new', 1)";

#[test]
fn its_history_is_counted_and_the_log_tells() {
    let mut service = Setup::painter().stopped();
    former::make(&service);
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
    let begins = format!("bringing the database up to date from=4 to={}", former::migrations());
    let begins = log.find(&begins);
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
