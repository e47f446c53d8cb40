//! Promise: the history shows every job, found by its words, its state, its key, its login and its
//! time, and can be taken away as a file, however long it is.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::fs;

use serde_json::Value;
use support::{Browser, Service, Setup, history, sqlite::Database};

const JOBS: u32 = 3000;

fn service() -> Service {
    let service = Setup::admin().start();
    history::fill(&service, JOBS);
    service
}

/// The jobs of all pages of a list, and how many pages there were.
fn all(browser: &mut Browser<'_>, query: &str) -> (Vec<String>, usize) {
    let (mut ids, mut pages) = (Vec::new(), 0);
    let mut path = format!("/admin/requests?{query}");
    loop {
        let page = browser.get(&path).expect(200).text();
        pages += 1;
        let mut shown: Vec<_> = page
            .split("/admin/requests/")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().to_owned())
            .filter(|id| id.starts_with("img_"))
            .collect();
        shown.dedup();
        ids.extend(shown);
        let Some((_, rest)) = page.split_once("rel=\"next\" href=\"") else { break };
        path = rest.split('"').next().unwrap().replace("&#38;", "&");
        assert!(pages < 500, "it has no end");
    }
    (ids, pages)
}

#[test]
fn every_filter_finds_what_the_database_holds() {
    let service = service();
    let mut browser = Browser::signed_in(&service);
    let mut database = Database::of(&service);
    let key = database.texts("SELECT id FROM api_keys ORDER BY id")[0].clone();
    let day = |at: &str| format!("unixepoch('{at}') * 1000");
    let (from, to) = ("2020-01-01", "2026-06-01");
    let login = "id IN (SELECT job_id FROM turns WHERE login = 'second')";
    for (query, condition) in [
        (String::new(), "1".to_owned()),
        ("state=failed".into(), "state = 'failed'".into()),
        ("state=queued".into(), "state = 'queued'".into()),
        (format!("key={key}"), format!("api_key_id = '{key}'")),
        (
            format!("key={key}&state=cancelled"),
            format!("api_key_id = '{key}' AND state = 'cancelled'"),
        ),
        ("login=second".into(), login.into()),
        ("login=second&state=failed".into(), format!("{login} AND state = 'failed'")),
        ("q=CRIMSON+zeppelin".into(), "prompt LIKE '%crimson zeppelin%'".into()),
        ("q=100%25_".into(), "0".into()),
        (
            format!("from={from}&to={to}&tz=UTC"),
            format!("created_at >= {} AND created_at < {}", day(from), day("2026-06-02")),
        ),
    ] {
        let expected =
            database.texts(&format!("SELECT id FROM jobs WHERE {condition} ORDER BY seq DESC"));
        let (found, pages) = all(&mut browser, &query);
        assert_eq!(found, expected, "{query}");
        assert_eq!(pages, expected.len().div_ceil(30).max(1), "{query}");
    }
    let id = format!("img_{:032x}", 77);
    assert_eq!(all(&mut browser, &format!("q={id}")).0, std::slice::from_ref(&id));
    assert_eq!(all(&mut browser, &format!("q={}", &id[..34])).0.len(), 255);
}

#[test]
fn a_filter_that_makes_no_sense_is_refused_by_name() {
    let service = Setup::admin().start();
    let mut browser = Browser::signed_in(&service);
    for (query, words) in [
        ("state=lost", "state"),
        ("from=tomorrow", "from"),
        ("to=2026-13-01", "to"),
        ("before=x", "before"),
        ("before=99999999999999999999", "before"),
    ] {
        for list in ["requests", "gallery"] {
            let page = browser.get(&format!("/admin/{list}?{query}")).expect(400).text();
            assert!(page.contains(&format!("&#39;{words}&#39; is ")), "{query}: {page}");
        }
    }
    browser.get("/admin/requests?before=-5&tz=Nowhere/Land&from=2026-01-01").expect(200);
    browser.get("/admin/requests/export?format=xml").expect(400);
    browser.get("/admin/requests?q=%ff%fe").expect(200);
}

#[test]
fn an_export_holds_the_filtered_jobs_and_no_formula() {
    let service = service();
    let mut database = Database::of(&service);
    database.run(
        "UPDATE jobs SET prompt = '=HYPERLINK(\"https://evil.example\";\"x\")' || char(10) || 'a \"b\", c' \
         WHERE seq = 17; UPDATE api_keys SET name = '@SUM(1)'",
    );
    let mut browser = Browser::signed_in(&service);
    let reply = browser.get("/admin/requests/export?format=csv&state=failed").expect(200);
    assert_eq!(reply.header("content-type"), Some("text/csv; charset=utf-8"));
    let disposition = reply.header("content-disposition").unwrap();
    assert!(
        disposition.starts_with("attachment; filename=\"codex-image-service-"),
        "{disposition}"
    );
    let failed = database.number("SELECT count(*) FROM jobs WHERE state = 'failed'");
    let mut read = csv::Reader::from_reader(reply.body.as_slice());
    let head = read.headers().unwrap().clone();
    let column = |name: &str| head.iter().position(|known| known == name).unwrap();
    let rows: Vec<csv::StringRecord> = read.records().map(Result::unwrap).collect();
    assert_eq!(i64::try_from(rows.len()).unwrap(), failed);
    for row in &rows {
        assert_eq!((&row[column("state")], &row[column("key")]), ("failed", "'@SUM(1)"));
    }
    let odd = rows.last().unwrap();
    assert_eq!(&odd[column("prompt")], "'=HYPERLINK(\"https://evil.example\";\"x\")\na \"b\", c");

    let reply = browser.get("/admin/requests/export?format=jsonl").expect(200).text();
    let lines: Vec<Value> = reply.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), JOBS as usize);
    assert_eq!(lines[JOBS as usize - 17]["key"], "@SUM(1)", "as it is, for programs");
    assert!(lines[1]["pictures"].as_str().unwrap().contains("/generated/img_"));
    assert!(lines[0]["created_at"].as_str().unwrap() > lines[1]["created_at"].as_str().unwrap());
}

#[test]
fn an_export_keeps_little_in_memory() {
    let service = service();
    // 40 kB a prompt: 120 MB in all.
    Database::of(&service).run("UPDATE jobs SET prompt = printf('%.40000c', 'x')");
    let mut browser = Browser::signed_in(&service);
    browser.get("/admin/requests").expect(200);
    let peak = |service: &Service| -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    // The sign-in hashed a password: the peak counts from here (proc(5), clear_refs).
    fs::write(format!("/proc/{}/clear_refs", service.pid()), "5").unwrap();
    let before = peak(&service);
    let reply = browser.get("/admin/requests/export?format=jsonl").expect(200);
    assert!(reply.body.len() > 120_000_000, "{}", reply.body.len());
    // Some pages of it, in kB.
    assert!(peak(&service) - before < 40_000, "{} - {before}", peak(&service));
}
