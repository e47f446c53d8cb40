//! Promise: a backup is the whole database as it was at one moment, however busy the service is, or
//! there is none; it never takes the place of anything unasked, and what it is restored to is the
//! service as it was.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    os::unix::{fs::PermissionsExt as _, fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{FlockOperation, fcntl_lock},
    process::Signal,
};
use serde_json::json;
use support::{
    Disk, Service, Setup, former, history, lab, process, rows, snapshot, sqlite::Database, wait_for,
};

const NAME: &str = "codex-image-service.db";

#[track_caller]
fn run(service: &Service, args: &[&str], code: i32) -> String {
    let output: Output = service.run(args);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn folder(service: &Service) -> PathBuf {
    let folder = service.path("backups");
    fs::create_dir(&folder).unwrap();
    folder
}

/// Opens a copy of it, so that nothing is made beside it.
fn look(service: &Service, backup: &Path) -> Database {
    let copy = service.path("looked-at.db");
    fs::copy(backup, &copy).unwrap();
    let mut database = Database::open(&copy);
    assert_eq!(database.texts("PRAGMA integrity_check"), ["ok"]);
    assert_eq!(database.texts("PRAGMA foreign_key_check"), [""; 0]);
    database
}

fn jobs(database: &mut Database) -> BTreeSet<String> {
    database.texts("SELECT id FROM jobs").into_iter().collect()
}

fn database(service: &Service) -> PathBuf {
    service.state_dir().join(NAME)
}

#[test]
fn it_is_whole_while_jobs_come_in() {
    let service = Setup::painter().set("GENERATION_QUEUE_MAX_SIZE", "100000").start();
    let folder = folder(&service);
    service.default_key();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|caller| {
                let (service, over) = (&service, &over);
                scope.spawn(move || {
                    let mut accepted = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        let two = json!({"prompt": format!("kite {caller}"), "n": 2});
                        let reply = service.post_json("/v1/images/jobs", &two).expect(202);
                        accepted.push(reply.json()["id"].as_str().unwrap().to_owned());
                    }
                    accepted
                })
            })
            .collect();
        let mut before = BTreeSet::new();
        for number in 0..5 {
            let known = jobs(&mut Database::of(&service));
            let path = folder.join(format!("{number}.db"));
            let said = run(&service, &["backup", text(&path)], 0);
            let mut backup = look(&service, &path);
            let found = jobs(&mut backup);
            let size = fs::metadata(&path).unwrap().len();
            let line = format!("{size} bytes, {} jobs: {}\n", found.len(), path.display());
            assert_eq!(said, line);
            assert!(found.is_superset(&known) && found.is_superset(&before));
            // Each job with its turns, as it was accepted.
            let halves = "SELECT count(*) FROM jobs WHERE count <> \
                          (SELECT count(*) FROM turns WHERE job_id = id)";
            assert_eq!(backup.number(halves), 0);
            assert_eq!(mode(&path), 0o600);
            before = found;
        }
        over.store(true, Ordering::Relaxed);
        let accepted: BTreeSet<_> =
            callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        assert!(accepted.is_superset(&before) && !before.is_empty());
    });
    assert_eq!(lab::names(&folder).len(), 5, "nothing else is left there");
}

#[test]
fn it_takes_no_place_that_is_not_its_own() {
    let service = Setup::painter().stopped();
    let folder = folder(&service);
    let file = folder.join("a.db");
    // Nothing is made where there is no database.
    assert!(run(&service, &["backup", text(&file)], 1).contains("there is no database"));
    assert!(!database(&service).exists());
    service.key("early");
    run(&service, &["backup", text(&file)], 0);
    service.key("late");
    let before = fs::read(&file).unwrap();
    let said = run(&service, &["backup", text(&file)], 1);
    assert!(said.contains("is there already; --force"), "{said}");
    assert!(fs::read(&file).unwrap() == before);
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    run(&service, &["backup", "--force", text(&file)], 0);
    assert_eq!(look(&service, &file).number("SELECT count(*) FROM api_keys"), 2);
    assert_eq!(mode(&file), 0o600);

    let (link, socket) = (folder.join("link"), folder.join("s"));
    symlink(&file, &link).unwrap();
    let _socket = UnixListener::bind(&socket);
    fs::create_dir(folder.join("inner")).unwrap();
    let another = service.path("another-name.db");
    fs::hard_link(database(&service), &another).unwrap();
    let before = snapshot(&folder);
    for (at, words) in [
        (&link, "no regular file"),
        (&socket, "no regular file"),
        (&folder.join("none/b.db"), "there is no folder"),
        (&database(&service), "belongs to the database itself"),
        (&service.state_dir().join(format!("{NAME}-wal")), "belongs to the database itself"),
        (&another, "belongs to the database itself"),
        (&file.join("b.db"), "there is no folder"),
    ] {
        let said = run(&service, &["backup", "--force", text(at)], 1);
        assert!(said.contains(words) && said.contains(text(at.parent().unwrap())), "{said}");
    }
    assert!(run(&service, &["backup", "--keep", "2", text(&file)], 1).contains("for a folder"));
    run(&service, &["backup", "--keep", "0", text(&folder)], 2);
    assert!(snapshot(&folder) == before);
    service.key("the database is what it was");

    let foreign = service.path("foreign.db");
    Database::open(&foreign).run("CREATE TABLE notes (text)");
    let url = format!("sqlite:///{}", foreign.display());
    let mut command = service.command(&["backup", text(&folder.join("b.db"))]);
    let output = command.env("DATABASE_URL", url).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("another program"));
    assert!(snapshot(&folder) == before);
}

fn dated(day: u32) -> String {
    format!("codex-image-service-202001{day:02}T030000Z.db")
}

#[test]
fn of_a_folders_backups_only_the_oldest_go() {
    let service = Setup::painter().stopped();
    service.key("x");
    let folder = folder(&service);
    let others = [
        "codex-image-service.db",
        "codex-image-service-20200101T030000Z.db.old",
        "codex-image-service-20200101.db",
        "my-codex-image-service-20200101T030000Z.db",
    ];
    for name in others.map(str::to_owned).into_iter().chain((1..=5).map(dated)) {
        fs::write(folder.join(name), "x").unwrap();
    }
    // Such a name, and yet no file.
    fs::create_dir(folder.join(dated(6))).unwrap();
    symlink("nowhere", folder.join(dated(7))).unwrap();
    // From a clock that went wrong.
    let future = "codex-image-service-29990101T000000Z.db";
    fs::write(folder.join(future), "x").unwrap();

    let said = run(&service, &["backup", "--keep", "3", text(&folder)], 0);
    assert!(said.ends_with("; older ones removed: 4\n"), "{said}");
    let left: BTreeSet<_> = lab::names(&folder).into_iter().collect();
    let made = said.split_once(".db;").unwrap().0.rsplit_once('/').unwrap().1;
    let kept = others.map(str::to_owned).into_iter();
    let kept = kept.chain([dated(5), dated(6), dated(7), future.to_owned(), format!("{made}.db")]);
    assert_eq!(left, kept.collect());
    look(&service, &folder.join(format!("{made}.db")));
}

#[test]
fn a_full_disk_costs_no_old_backup() {
    let service = Setup::painter().stopped();
    history::fill(&service, 5_000);
    let Some(disk) = Disk::new(&service.path("disk"), "size=1m") else { return };
    for day in 1..=3 {
        fs::write(disk.path().join(dated(day)), "x").unwrap();
    }
    let before = snapshot(disk.path());
    let said = run(&service, &["backup", "--keep", "1", text(disk.path())], 1);
    assert!(said.contains("there is no room for the backup in"), "{said}");
    assert!(snapshot(disk.path()) == before);
    disk.fill();
    let said = run(&service, &["backup", "--keep", "1", text(disk.path())], 1);
    assert!(said.contains("there is no room for the backup in"), "{said}");
    disk.make_room();
    disk.make_read_only();
    let said = run(&service, &["backup", "--keep", "1", text(disk.path())], 1);
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(snapshot(disk.path()) == before);
}

#[test]
fn killed_it_leaves_a_whole_backup_or_none() {
    let service = Setup::painter().stopped();
    history::fill(&service, 20_000);
    let folder = folder(&service);
    let target = folder.join("a.db");
    let partial = || lab::names(&folder).into_iter().find(|name| name.ends_with(".partial"));
    let mut unfinished = 0;
    for at_least in [0, 1, 100_000, 1_000_000, 3_000_000, u64::MAX] {
        let mut command = service.command(&["backup", text(&target)]);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        // In the middle of writing, of reading it again, and after that.
        wait_for("its progress", || {
            let file = partial().and_then(|name| folder.join(name).metadata().ok());
            let far = file.is_some_and(|file| file.len() >= at_least);
            (far || child.try_wait().unwrap().is_some()).then_some(())
        });
        process::signal(child.id().cast_signed(), Signal::KILL);
        child.wait().unwrap();
        if target.exists() {
            assert_eq!(look(&service, &target).number("SELECT count(*) FROM jobs"), 20_000);
            fs::remove_file(&target).unwrap();
        }
        let left = lab::names(&folder);
        if !left.is_empty() {
            unfinished += 1;
            // It could be that of a backup that goes on; after an hour it is nobody's.
            let young = folder.join("young.db");
            run(&service, &["backup", text(&young)], 0);
            assert_eq!(lab::names(&folder), [&left[..], &["young.db".to_owned()]].concat());
            let old = SystemTime::now() - Duration::from_mins(61);
            for name in left {
                let file = File::options().write(true).open(folder.join(name)).unwrap();
                file.set_modified(old).unwrap();
            }
            run(&service, &["backup", "--force", text(&young)], 0);
            fs::remove_file(young).unwrap();
        }
        assert_eq!(lab::names(&folder), [""; 0]);
    }
    assert!(unfinished > 0, "no kill came in the middle");
}

/// Everything that is told of keys and jobs, and every row.
fn all(service: &Service) -> Vec<(String, String)> {
    let mut all = rows::everything(service);
    all.retain(|(name, _)| !name.starts_with("_sqlx") && !name.starts_with("worker_status"));
    all.sort();
    all
}

#[test]
fn restored_it_is_the_service_that_it_was() {
    let mut service = Setup::painter().start();
    let done = service.submit("a kite");
    service.wait_job(&done);
    let url = service.job(&done)["images"][0]["url"].as_str().unwrap().to_owned();
    let picture = service.picture(&url);
    service.term();
    let then = all(&service);
    let backup = service.path("a.db");
    run(&service, &["backup", text(&backup)], 0);

    service.start();
    let late = service.submit("too late");
    service.wait_job(&late);
    let key = service.key("late");
    let said = run(&service, &["restore", text(&backup)], 1);
    assert!(said.contains("in use") && said.contains(text(&database(&service))), "{said}");
    // A crash leaves a log, which belongs to the other database.
    service.kill9();
    assert!(support::beside(&database(&service), "-wal").exists());
    let said = run(&service, &["restore", text(&backup)], 0);
    let kept = PathBuf::from(said.trim().rsplit_once("kept: ").unwrap().1);
    assert!(all(&service) == then, "every row is as it was");
    assert_eq!(mode(&database(&service)), mode(&kept));

    service.start();
    assert_eq!(service.job(&done)["status"], "succeeded");
    assert!(service.picture(&url) == picture);
    assert_eq!(service.request_as(&key, "GET", "/v1/images/jobs", None).status, 401);
    assert_eq!(service.get(&format!("/v1/images/jobs/{late}")).status, 404);
    service.generate("another").expect(200);
    // It is the same instance still, so the clean-up knows its folders.
    let cleaned = run(&service, &["cleanup", "--json"], 0);
    assert!(cleaned.contains("\"skipped\":[]"), "{cleaned}");
    service.term();
    // And back: what was replaced is whole.
    run(&service, &["restore", text(&kept)], 0);
    service.start();
    service.get(&format!("/v1/images/jobs/{late}")).expect(200);
    service.request_as(&key, "GET", "/v1/images/jobs", None).expect(200);
}

#[test]
fn in_one_second_there_may_be_several() {
    let service = Setup::painter().stopped();
    let folder = folder(&service);
    service.key("x");
    // Three callers at the same moment, each with names to the second.
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| run(&service, &["backup", text(&folder)], 0));
        }
    });
    let backups = lab::names(&folder);
    assert_eq!(backups.len(), 3, "{backups:?}");
    let backup = folder.join(&backups[0]);
    let kept: BTreeSet<_> = (0..3)
        .map(|_| run(&service, &["restore", text(&backup)], 0))
        .map(|said| said.trim().rsplit_once("kept: ").unwrap().1.to_owned())
        .collect();
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(kept.iter().all(|kept| Path::new(kept).exists()), "{kept:?}");
}

#[test]
fn what_starts_during_a_restore_works_on_what_was_restored() {
    let mut service = Setup::painter().stopped();
    service.key("early");
    let backup = service.path("a.db");
    run(&service, &["backup", text(&backup)], 0);
    service.key("late");
    // As a restore does it: nobody gets in while the place is taken.
    let database = database(&service);
    let former = File::options().read(true).write(true).open(&database).unwrap();
    fcntl_lock(&former, FlockOperation::NonBlockingLockExclusive).unwrap();
    service.spawn();
    let folder = format!("/proc/{}/fd", service.pid());
    let open = || {
        let entries = fs::read_dir(&folder).unwrap().flatten();
        let names: Vec<_> = entries.filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
        names
    };
    // It has the former one open, and keeps it.
    let mut looks = 0;
    wait_for("the service to wait", || {
        looks = if open().contains(&database) { looks + 1 } else { 0 };
        (looks == 20).then_some(())
    });
    let next = service.state_dir().join("next.db");
    fs::copy(&backup, &next).unwrap();
    fs::rename(&next, &database).unwrap();
    drop(former);
    wait_for("the service", || service.endpoint().request("GET", "/health", &[], None).ok());
    let open = open();
    assert!(open.contains(&database), "{open:?}");
    let gone: Vec<_> = open.iter().filter(|path| text(path).ends_with(".db (deleted)")).collect();
    assert!(gone.is_empty(), "{gone:?}");
    let said = run(&service, &["keys", "list"], 0);
    assert!(said.contains("early") && !said.contains("late"), "{said}");
}

#[test]
fn restoring_needs_a_backup_and_a_service_that_is_stopped() {
    for role in ["front", "worker"] {
        let mut service = Setup::painter().args(&["--role", role]).stopped();
        service.key("x");
        let backup = service.path("a.db");
        run(&service, &["backup", text(&backup)], 0);
        service.spawn();
        wait_for("the service", || {
            let locked = || File::open(service.state_dir().join("worker.lock")).unwrap().try_lock();
            let up = if role == "front" {
                service.log().contains("listening")
            } else {
                locked().is_err()
            };
            up.then_some(())
        });
        let before = fs::read(database(&service)).unwrap();
        assert!(run(&service, &["restore", text(&backup)], 1).contains("in use"), "{role}");
        assert!(fs::read(database(&service)).unwrap() == before);
        service.term();
        run(&service, &["restore", text(&backup)], 0);
    }

    let service = Setup::painter().stopped();
    service.key("x");
    let (backup, other) = (service.path("a.db"), service.path("other.db"));
    run(&service, &["backup", text(&backup)], 0);
    let whole = fs::read(&backup).unwrap();
    let before = snapshot(&service.state_dir());
    let refused = |words: &str| {
        let said = run(&service, &["restore", text(&other)], 1);
        assert!(said.contains(words), "{said}");
        assert!(snapshot(&service.state_dir()) == before);
    };
    refused("other.db: No such file");
    fs::create_dir(&other).unwrap();
    refused("no regular file");
    fs::remove_dir(&other).unwrap();
    fs::write(&other, "a letter").unwrap();
    refused("not an SQLite database");
    fs::write(&other, &whole[..whole.len() - 4096]).unwrap();
    refused("other.db");
    let mut torn = whole.clone();
    let middle = torn.len() / 2;
    torn[middle..middle + 4096].fill(0xaa);
    fs::write(&other, &torn).unwrap();
    refused("other.db");
    fs::remove_file(&other).unwrap();
    Database::open(&other).run("CREATE TABLE notes (text)");
    refused("another program");
    fs::write(&other, &whole).unwrap();
    Database::open(&other).run("UPDATE _sqlx_migrations SET version = 999 WHERE version = 5");
    refused("schema version 999");
    fs::write(&other, &whole).unwrap();
    fs::write(support::beside(&other, "-wal"), "a log").unwrap();
    refused("make a backup of it");

    // A link is followed.
    let real = service.path("real.db");
    fs::rename(database(&service), &real).unwrap();
    symlink(&real, database(&service)).unwrap();
    let said = run(&service, &["restore", text(&backup)], 0);
    assert!(said.contains("/real.db.replaced-"), "{said}");
    assert!(fs::symlink_metadata(database(&service)).unwrap().is_symlink());
    assert!(fs::read(&real).unwrap() == whole);

    // Where there is none, or one that cannot be read, it is what one wants.
    fs::remove_file(database(&service)).unwrap();
    run(&service, &["restore", text(&backup)], 0);
    fs::write(database(&service), "what the disk left of it").unwrap();
    let said = run(&service, &["restore", text(&backup)], 0);
    let kept = said.trim().rsplit_once("kept: ").unwrap().1;
    assert_eq!(fs::read_to_string(kept).unwrap(), "what the disk left of it");
    assert!(run(&service, &["keys", "list"], 0).contains('x'));
}

#[test]
fn everybody_may_start_at_once_on_what_was_restored() {
    for round in 0..10 {
        let mut service = Setup::painter().args(&["--role", "front"]).stopped();
        service.key("x");
        let backup = service.path("a.db");
        run(&service, &["backup", text(&backup)], 0);
        run(&service, &["restore", text(&backup)], 0);
        let start = |args: &[&str]| {
            let mut command = service.command(args);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let worker = start(&["serve", "--role", "worker"]);
        let commands = [["keys", "list"], ["keys", "create"], ["cleanup", "--json"]];
        let commands = commands.map(|args| {
            if args[1] == "create" { start(&["keys", "create", "y"]) } else { start(&args) }
        });
        service.start();
        for command in commands {
            let output = command.wait_with_output().unwrap();
            assert!(output.status.success(), "round {round}: {output:?}");
        }
        service.generate("a kite").expect(200);
        process::signal(worker.id().cast_signed(), Signal::TERM);
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success(), "round {round}: {output:?}");
    }
}

#[test]
fn one_of_the_former_version_is_brought_up_to_date() {
    let mut service = Setup::painter().stopped();
    former::make(&service);
    let backup = service.path("a.db");
    run(&service, &["backup", text(&backup)], 0);
    let version = "SELECT max(version) FROM _sqlx_migrations";
    assert_eq!(look(&service, &backup).number(version), 4, "it is as it was");
    assert_eq!(Database::of(&service).number(version), 4, "and so is the database");
    service.key("migrates it");
    run(&service, &["restore", text(&backup)], 0);
    assert_eq!(Database::of(&service).number(version), 4);
    service.start();
    let mut database = Database::of(&service);
    assert_eq!(database.number(version), former::migrations());
    assert_eq!(database.number("SELECT count(*) FROM jobs"), 30);
    let counted = "SELECT id || ' ' || jobs || ' ' || images FROM api_keys ORDER BY id";
    assert_eq!(database.texts(counted)[..3], ["a 10 10", "b 20 20", "unused 0 0"]);
}
