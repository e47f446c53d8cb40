//! Promise: the store comes up right however many start at once, keeps its hands off every file
//! that is not its own, refuses what its tables forbid, and survives a full disk: what was
//! accepted stays, what was not leaves nothing, and a picture that was paid for is not paid again.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs,
    path::Path,
    process::{Child, Output, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;
use support::{
    Disk, PATIENCE, Setup, beside, fake, former, lab, pictures, process, snapshot,
    sqlite::Database, temp_dir, wait_for, wait_for_within,
};

/// What the Python service made, as far as it matters here.
const ORIGINAL: &str = "
    CREATE TABLE api_keys (id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, key_hash VARCHAR,
        enabled BOOLEAN, created_at DATETIME);
    CREATE TABLE image_requests (id VARCHAR PRIMARY KEY, api_key_id VARCHAR, prompt TEXT,
        status VARCHAR, created_at DATETIME, FOREIGN KEY (api_key_id) REFERENCES api_keys (id));
    CREATE TABLE app_settings (key VARCHAR PRIMARY KEY, value VARCHAR);
    INSERT INTO api_keys VALUES ('k1', 'laptop', 'abc', 1, '2025-01-01 00:00:00');
    INSERT INTO image_requests VALUES ('img_1', 'k1', 'a kite', 'succeeded', '2025-01-02');";

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// `sqlite:////…`, as the Python original writes an absolute path.
fn url_of(path: &Path) -> String {
    format!("sqlite:///{}", path.display())
}

/// `serve`, `keys list` and `cleanup` on this database all fail with these words, and leave the
/// folder that it lies in as it was.
fn assert_refused(database: &Path, words: &[&str]) {
    let service = Setup::painter().set("DATABASE_URL", url_of(database)).stopped();
    let before = snapshot(database.parent().unwrap());
    for args in [&["serve"][..], &["keys", "list"], &["keys", "create", "x"], &["cleanup"]] {
        let output = service.run(args);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        let path = database.to_str().unwrap();
        for word in words.iter().chain(&[path, "left untouched"]) {
            assert!(said.contains(word), "{args:?} does not say {word:?}: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
        assert!(snapshot(database.parent().unwrap()) == before, "{args:?} touched {path}");
    }
}

#[test]
fn everybody_may_start_at_the_same_moment() {
    for round in 0..20 {
        let mut service = Setup::painter().args(&["--role", "front"]).stopped();
        let start = |args: &[&str]| -> Child {
            let mut command = service.command(args);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut worker = start(&["serve", "--role", "worker"]);
        let commands = [
            &["keys", "create", "a"][..],
            &["keys", "list"],
            &["cleanup"],
            &["cleanup", "--dry-run"],
            &["keys", "create", "b"],
        ];
        let commands: Vec<(Child, _)> =
            commands.into_iter().map(|args| (start(args), args)).collect();
        service.start();
        for (command, args) in commands {
            let output = command.wait_with_output().unwrap();
            let said = text(&output);
            // A clean-up makes no database.
            let early = args[0] == "cleanup" && said.contains("there is no database");
            assert!(output.status.success() || early, "round {round}, {args:?}: {said}");
        }
        wait_for("a worker", || (service.get("/ready").status == 200).then_some(()));
        service.generate("a kite").expect(200);

        let mut database = Database::of(&service);
        assert_eq!(database.number("SELECT count(*) FROM _sqlx_migrations"), former::migrations());
        let keys = "SELECT name FROM api_keys ORDER BY name";
        assert_eq!(database.texts(keys), ["a", "b", "test"]);
        assert_eq!(database.texts("PRAGMA integrity_check"), ["ok"]);
        assert_eq!(database.texts("PRAGMA journal_mode"), ["wal"]);

        process::signal(worker.id().cast_signed(), Signal::TERM);
        assert!(worker.wait().unwrap().success());
        assert!(service.term().success());
    }
}

#[test]
fn a_first_start_that_is_killed_is_made_up_for() {
    for round in 0..15_u64 {
        let mut service = Setup::painter().stopped();
        service.spawn();
        // The database appears some milliseconds after the start, its tables soon after.
        let path = service.state_dir().join("codex-image-service.db");
        wait_for("the database", || path.exists().then_some(()));
        std::thread::sleep(Duration::from_micros(round * 400));
        service.kill9();
        service.start();
        assert_eq!(
            Database::of(&service).number("SELECT count(*) FROM _sqlx_migrations"),
            former::migrations()
        );
        service.generate("a kite").expect(200);
    }
}

#[test]
fn a_newer_schema_is_refused_and_left_untouched() {
    let service = Setup::painter().stopped();
    service.key("early");
    let path = service.state_dir().join("codex-image-service.db");
    Database::open(&path).run(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'the future', TRUE, x'00', 1)",
    );
    let before = snapshot(&service.state_dir());
    for args in [&["serve"][..], &["keys", "list"], &["cleanup"]] {
        let output = service.run(args);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let words = [
            path.to_str().unwrap(),
            "schema version 9999",
            &format!("this program knows {}", former::migrations()),
        ];
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(snapshot(&service.state_dir()) == before, "{args:?} touched it");
    }
}

#[test]
fn a_newer_schema_is_seen_in_the_log_alone() {
    let service = Setup::painter().stopped();
    service.key("early");
    let path = service.state_dir().join("codex-image-service.db");
    let mut database = Database::open(&path);
    database.run(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'the future', TRUE, x'00', 1)",
    );
    database.crash(&path);
    assert!(fs::metadata(beside(&path, "-wal")).unwrap().len() > 0);
    for args in [&["serve"][..], &["keys", "list"]] {
        let output = service.run(args);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("schema version 9999"), "{said}");
    }
}

#[test]
fn the_database_of_the_python_original_is_named_and_left_untouched() {
    let words = ["Python codex-image-service", "DATABASE_URL"];
    // In the journal mode that Python's driver leaves alone.
    let folder = temp_dir();
    let path = folder.path().join("old.db");
    Database::open(&path).run(ORIGINAL);
    assert_refused(&path, &words);

    // In WAL mode, everything in its place.
    let folder = temp_dir();
    let path = folder.path().join("old.db");
    Database::open(&path).run(&format!("PRAGMA journal_mode = WAL; {ORIGINAL}"));
    assert_refused(&path, &words);

    // In WAL mode after a crash: the latest row, or even all of it, is in the log alone.
    let folder = temp_dir();
    let path = folder.path().join("old.db");
    let mut database = Database::open(&path);
    database.run(&format!("PRAGMA journal_mode = WAL; {ORIGINAL}"));
    drop(database);
    let mut database = Database::open(&path);
    database.run("INSERT INTO app_settings VALUES ('a', 'b')");
    database.crash(&path);
    assert!(fs::metadata(beside(&path, "-wal")).unwrap().len() > 0);
    assert_refused(&path, &words);

    let folder = temp_dir();
    let path = folder.path().join("old.db");
    let mut database = Database::open(&path);
    database.run(&format!("PRAGMA journal_mode = WAL; {ORIGINAL}"));
    database.crash(&path);
    assert!(fs::metadata(&path).unwrap().len() <= 4096, "the tables are in the log");
    assert_refused(&path, &words);
    // Nothing was lost: whoever owns it finds it all.
    let mut database = Database::open(&path);
    assert_eq!(database.texts("SELECT prompt FROM image_requests"), ["a kite"]);
}

#[test]
fn the_original_may_be_running() {
    let folder = temp_dir();
    let path = folder.path().join("old.db");
    let mut running = Database::open(&path);
    running.run(&format!("PRAGMA journal_mode = WAL; {ORIGINAL}"));
    assert_refused(&path, &["Python codex-image-service"]);
    running.run("INSERT INTO app_settings VALUES ('a', 'b')");
    assert_eq!(running.texts("PRAGMA integrity_check"), ["ok"]);
}

#[test]
fn what_belongs_to_another_program_is_left_untouched() {
    let folder = temp_dir();
    let path = folder.path().join("notes.db");
    Database::open(&path).run("CREATE TABLE notes (text); INSERT INTO notes VALUES ('milk')");
    assert_refused(&path, &["a database of another program"]);

    let folder = temp_dir();
    let path = folder.path().join("notes.db");
    let mut database = Database::open(&path);
    database.run("PRAGMA journal_mode = WAL; CREATE TABLE notes (text)");
    database.crash(&path);
    assert_refused(&path, &["a database of another program"]);

    // Another program that keeps its migrations by the same library.
    let folder = temp_dir();
    let path = folder.path().join("blog.db");
    Database::open(&path).run(
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
           installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, \
           checksum BLOB NOT NULL, execution_time BIGINT NOT NULL); \
         INSERT INTO _sqlx_migrations VALUES (1, 'posts', '2025-01-01', TRUE, x'00', 1); \
         CREATE TABLE posts (text)",
    );
    assert_refused(&path, &["a database of another program"]);
}

#[test]
fn what_is_no_database_is_left_untouched() {
    let service = Setup::painter().stopped();
    let path = service.path("letter.txt");
    fs::write(&path, "Dear Sir or Madam, ".repeat(500)).unwrap();
    let before = fs::read(&path).unwrap();
    for args in [&["serve"][..], &["keys", "list"]] {
        let mut command = service.command(args);
        let output = command.env("DATABASE_URL", url_of(&path)).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(path.to_str().unwrap()), "{said}");
        assert!(said.contains("not an SQLite database"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    // An empty file is nobody's.
    fs::write(&path, "").unwrap();
    let mut command = service.command(&["keys", "create", "first"]);
    let output = command.env("DATABASE_URL", url_of(&path)).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));

    let output = service
        .command(&["keys", "list"])
        .env("DATABASE_URL", url_of(&service.path("state")))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "a folder: {}", text(&output));
}

#[test]
fn the_url_means_what_it_meant_to_the_original() {
    let service = Setup::painter().stopped();
    fs::create_dir(service.path("cwd/data")).unwrap();
    let absolute = service.path("elsewhere/a.db");
    for (url, file) in [
        ("sqlite:///relative.db".to_owned(), service.path("cwd/relative.db")),
        ("sqlite:///./data/app.db".to_owned(), service.path("cwd/data/app.db")),
        ("sqlite:///new folder/ä?b.db".replace('?', "-"), service.path("cwd/new folder/ä-b.db")),
        (url_of(&absolute), absolute),
    ] {
        let mut command = service.command(&["keys", "create", "x"]);
        let output = command.env("DATABASE_URL", &url).output().unwrap();
        assert!(output.status.success(), "{url}: {}", text(&output));
        assert_eq!(Database::open(&file).texts("SELECT name FROM api_keys"), ["x"], "{url}");
    }
    assert!(!service.state_dir().join("codex-image-service.db").exists());
}

#[test]
fn the_tables_are_strict_and_their_rows_belong_together() {
    let service = Setup::painter().start();
    service.generate("a kite").expect(200);
    let mut database = Database::of(&service);
    let ours = "SELECT name FROM pragma_table_list WHERE type = 'table' AND schema = 'main' \
                AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '_sqlx_%'";
    assert_eq!(database.texts(&format!("{ours} AND strict = 0")), [""; 0]);
    let mut tables = database.texts(ours);
    tables.sort();
    let expected = [
        "admin_account",
        "admin_devices",
        "admin_sessions",
        "api_keys",
        "cleanup_runs",
        "dispatch",
        "images",
        "instance",
        "job_references",
        "jobs",
        "login_events",
        "login_quota",
        "login_rests",
        "login_status",
        "login_windows",
        "orders",
        "stored_images",
        "turns",
        "turns_by_hour",
        "worker_status",
    ];
    assert_eq!(tables, expected);

    for (statement, refusal) in [
        ("UPDATE jobs SET created_at = 'yesterday'", "cannot store TEXT value in INTEGER column"),
        ("UPDATE images SET width = 1.5", "cannot store REAL value in INTEGER column"),
        ("UPDATE api_keys SET name = x'00'", "cannot store BLOB value in TEXT column"),
        ("UPDATE jobs SET state = 'lost'", "CHECK constraint failed"),
        ("UPDATE jobs SET count = 11", "CHECK constraint failed"),
        ("UPDATE turns SET state = 'queued'", "CHECK constraint failed"),
        ("UPDATE jobs SET api_key_id = 'key_nobody'", "FOREIGN KEY constraint failed"),
        ("UPDATE turns SET job_id = 'img_none'", "FOREIGN KEY constraint failed"),
        ("DELETE FROM api_keys", "FOREIGN KEY constraint failed"),
    ] {
        let refused = database.try_run(statement).unwrap_err();
        assert!(refused.contains(refusal), "{statement}: {refused}");
    }
    database.run("DELETE FROM jobs");
    for table in ["turns", "images", "job_references"] {
        assert_eq!(database.number(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
}

#[test]
fn a_deleted_key_keeps_its_history() {
    let service = Setup::fake().start();
    let done = service.submit("a kite");
    service.wait_job(&done);
    let running = service.submit("another [fake gate]");
    wait_for("the run", || (service.job(&running)["status"] == "running").then_some(()));
    let queued = service.submit("a third");

    let mut database = Database::of(&service);
    let [id] = database.texts("SELECT id FROM api_keys").try_into().unwrap();
    let output = service.run(&["keys", "delete", &id]);
    assert!(output.status.success(), "{}", text(&output));
    service.get("/v1/images/jobs").expect(401);
    fake::open_gate(&service.codex_home());

    // What was accepted is drawn; only its caller is gone.
    let finished = "SELECT id FROM jobs WHERE state = 'succeeded' ORDER BY seq";
    wait_for("the end of all jobs", || (database.texts(finished).len() == 3).then_some(()));
    assert_eq!(database.texts(finished), [done, running, queued]);
    let history = "SELECT k.name FROM jobs j JOIN api_keys k ON k.id = j.api_key_id";
    assert_eq!(database.texts(history), ["test"; 3]);
    assert_eq!(database.number("SELECT count(*) FROM turns"), 3);
    assert_eq!(database.number("SELECT count(*) FROM images"), 3);
    assert_eq!(database.texts("SELECT hash FROM api_keys"), [""]);
    assert_eq!(database.texts("PRAGMA foreign_key_check"), [""; 0]);
}

// Disks

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let setup = Setup::painter();
    let Some(disk) = Disk::new(&setup.path("state"), "size=8m") else { return };
    let service = setup.stopped();
    service.key("early");
    disk.make_read_only();
    for args in [&["serve"][..], &["keys", "create", "late"], &["cleanup"]] {
        let output = service.run(args);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(service.state_dir().to_str().unwrap()), "{args:?}: {said}");
        assert!(said.contains("Read-only file system"), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
    }
    // And a fresh one, in which nothing can be made.
    let output = service
        .command(&["serve"])
        .env("STATE_DIR", service.state_dir().join("new"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("state/new"), "{}", text(&output));
}

#[test]
fn ready_says_that_the_database_cannot_be_written() {
    let setup = Setup::painter();
    let Some(disk) = Disk::new(&setup.path("data"), "size=8m") else { return };
    let database = url_of(&setup.path("data").join("some.db"));
    let service = setup.set("DATABASE_URL", database).start();
    service.get("/ready").expect(200);
    disk.refuse_writes();
    let problems = wait_for("the problem", || {
        let reply = service.request_bare("GET", "/ready", &[], None);
        (reply.status == 503).then(|| reply.json()["problems"].clone())
    });
    let expected = json!([{"code": "store", "message": "The database cannot be written."}]);
    assert_eq!(problems, expected);
}

#[test]
fn every_database_has_an_id_of_its_own() {
    let ids = [(); 2].map(|()| {
        let service = Setup::painter().stopped();
        service.key("x");
        let mut database = Database::of(&service);
        assert!(database.try_run("INSERT INTO instance VALUES (2, 'x')").is_err(), "one row");
        let found = database.texts("SELECT id FROM instance");
        assert_eq!(found.len(), 1);
        found[0].clone()
    });
    assert_ne!(ids[0], ids[1]);
    for id in ids {
        assert!(
            id.len() == 32 && id.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        );
    }
}

#[test]
fn a_full_disk_refuses_jobs_and_loses_none() {
    let setup = Setup::fake().set("GENERATION_QUEUE_MAX_SIZE", "10000");
    let Some(disk) = Disk::new(&setup.path("state"), "size=6m") else { return };
    let service = setup.start();
    // While this one runs, nobody else writes.
    let first = service.submit("a kite [fake sleep=600]");
    wait_for("the run", || (service.job(&first)["status"] == "running").then_some(()));

    disk.fill();
    // The log has room for a few more.
    let prompt = "x".repeat(30_000);
    let mut accepted = vec![first.clone()];
    let refused = wait_for("a refusal", || {
        let reply = service.post_json("/v1/images/jobs", &json!({"prompt": prompt}));
        if reply.status == 202 {
            accepted.push(reply.json()["id"].as_str().unwrap().to_owned());
            return None;
        }
        Some(reply)
    });
    assert_eq!(refused.header("retry-after"), Some("60"));
    let body = refused.expect(503).json();
    assert_eq!(body["error"]["code"], "storage_full");
    assert_eq!(body["detail"], body["error"]["message"]);
    let body = body.to_string();
    assert!(!body.contains('/') && !body.contains("database"), "which disk is ours: {body}");
    // A reference needs room as well.
    let picture = pictures::unique(&pictures::Kind::default(), "reference");
    let picture = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, picture);
    let with_reference = json!({"prompt": "a kite", "reference_images_base64": [picture]});
    service.post_json("/v1/images/jobs", &with_reference).expect(503);
    service.post_json("/v1/images/generate", &json!({"prompt": prompt})).expect(503);

    // What needs no room goes on.
    assert_eq!(service.get("/health").status, 200);
    assert_eq!(service.job(&first)["status"], "running");
    let references = lab::names(&service.state_dir().join("references"));
    assert_eq!(references, [""; 0], "a refused job leaves nothing");

    disk.make_room();
    let late = wait_for("room again", || {
        let reply = service.post_json("/v1/images/jobs", &json!({"prompt": "late"}));
        (reply.status == 202).then(|| reply.json()["id"].as_str().unwrap().to_owned())
    });
    accepted.push(late.clone());
    let mut database = Database::of(&service);
    assert_eq!(database.texts("SELECT id FROM jobs ORDER BY seq"), accepted);
    assert_eq!(
        database.number("SELECT count(*) FROM turns"),
        i64::try_from(accepted.len()).unwrap()
    );
    assert_eq!(database.texts("PRAGMA integrity_check"), ["ok"]);
    service.delete(&format!("/v1/images/jobs/{first}")).expect(200);
    assert_eq!(service.wait_job(&late)["status"], "succeeded");
}

#[test]
fn a_picture_that_cannot_be_stored_is_not_paid_twice() {
    let setup = Setup::fake();
    let Some(disk) = Disk::new(&setup.path("pictures"), "size=2m") else { return };
    let pictures = setup.path("pictures");
    let service = setup.set("GENERATED_DIR", pictures).start();
    disk.fill();
    let job = service.submit("a kite [fake job=kite]");
    service.wait_for_log("a picture could not be stored");
    assert_eq!(service.job(&job)["status"], "running", "it is paid, so it is not given up");
    // Others are not held up by it.
    let other = service.submit("no kite [fake picture=none]");
    assert_eq!(service.wait_job(&other)["status"], "failed");

    disk.make_room();
    // Its lease ends after a minute, and then the picture is looked for again.
    let ended = wait_for_within(PATIENCE * 3, "the picture", || {
        Some(service.job(&job)).filter(|job| job["status"] != "running")
    });
    assert_eq!(ended["status"], "succeeded", "{ended}");
    image::load_from_memory(&service.picture(ended["images"][0]["url"].as_str().unwrap())).unwrap();
    assert_eq!(fake::payments_for(&service.codex_home(), "kite"), 1);
}

#[test]
fn a_picture_that_could_not_be_stored_is_taken_by_the_next_start() {
    let setup = Setup::fake();
    let Some(disk) = Disk::new(&setup.path("pictures"), "size=2m") else { return };
    let pictures = setup.path("pictures");
    let mut service = setup.set("GENERATED_DIR", pictures).start();
    disk.fill();
    let job = service.submit("a kite [fake job=kite]");
    service.wait_for_log("a picture could not be stored");
    assert!(service.term().success(), "the end does not wait for it");
    disk.make_room();
    service.start();
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
    assert_eq!(fake::payments_for(&service.codex_home(), "kite"), 1);
}

#[test]
fn a_disk_that_is_full_at_the_start_is_named() {
    let setup = Setup::painter();
    let Some(disk) = Disk::new(&setup.path("state"), "size=6m") else { return };
    let mut service = setup.start();
    service.generate("a kite").expect(200);
    service.term();
    disk.fill();
    for args in [&["serve"][..], &["keys", "list"], &["cleanup"]] {
        let output = service.run(args);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("there is no room left on the disk of "), "{args:?}: {said}");
        assert!(said.contains(service.state_dir().to_str().unwrap()), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    }
    disk.make_room();
    service.start();
    service.generate("another").expect(200);
}

#[test]
fn a_claim_that_was_not_written_draws_nothing() {
    let setup = Setup::fake().args(&["--role", "front"]);
    let Some(disk) = Disk::new(&setup.path("disk"), "size=2m") else { return };
    let database = url_of(&disk.path().join("service.db"));
    let service = setup.set("DATABASE_URL", database).start();
    let job = service.submit("a kite [fake job=kite]");
    disk.fill();
    // Until the log has no room left, not even for the few bytes of a claim.
    wait_for("a refusal", || {
        let reply = service.post_json("/v1/images/jobs", &json!({"prompt": "[fake job=other]"}));
        (reply.status == 503).then_some(())
    });

    let log = service.path("worker.log");
    let mut worker = service
        .command(&["serve", "--role", "worker"])
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let seen = |words: &str| fs::read_to_string(&log).unwrap().matches(words).count();
    wait_for("the failing claim", || (seen("no job could be claimed") >= 3).then_some(()));
    assert_eq!(seen("job begins"), 0, "the store knows nothing of it");
    assert_eq!(fake::payments_for(&service.codex_home(), "kite"), 0);

    disk.make_room();
    let ended = service.wait_job(&job);
    process::signal(i32::try_from(worker.id()).unwrap(), Signal::TERM);
    worker.wait().unwrap();
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert_eq!(fake::payments_for(&service.codex_home(), "kite"), 1);
}

#[test]
fn nothing_is_drawn_while_its_picture_could_not_be_stored() {
    let service = Setup::fake().start();
    // The command that makes it would make the folder, too.
    service.default_key();
    let (folder, aside) = (service.state_dir().join("generated"), service.path("aside"));
    fs::rename(&folder, &aside).unwrap();
    let job = service.submit("a kite [fake job=kite]");
    service.wait_for_log("no job is begun");
    let ready = wait_for("the trouble at /ready", || {
        let ready = service.get("/ready");
        (ready.status == 503).then(|| ready.json())
    });
    assert_eq!(ready["problems"][0]["code"], "storage", "{ready}");
    assert_eq!(service.job(&job)["status"], "queued");
    assert_eq!(fake::payments_for(&service.codex_home(), "kite"), 0);

    fs::rename(&aside, &folder).unwrap();
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
    // The same of the folder in which Codex works.
    let work = service.state_dir().join("work");
    fs::rename(&work, &aside).unwrap();
    wait_for("the trouble at /ready", || (service.get("/ready").status == 503).then_some(()));
    fs::rename(&aside, &work).unwrap();
    assert_eq!(fake::payments_for(&service.codex_home(), "kite"), 1);
}
