//! The engine against programs that are not Codex and misbehave in the ways that matter.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::{codex::testing::write_program, config::Changeable};

const THREAD: &str = "01a202ac-589d-75c2-aeb3-17ff97d6019f";
const START: &str =
    r#"echo '{"type":"thread.started","thread_id":"01a202ac-589d-75c2-aeb3-17ff97d6019f"}'"#;
const DRAW: &str = r#"d="$CODEX_HOME/generated_images/01a202ac-589d-75c2-aeb3-17ff97d6019f"
mkdir -p "$d"; printf '\211PNG\r\n\032\n' > "$d/x.png""#;

struct Lab {
    engine: ExecEngine,
    turn: Turn,
    dir: tempfile::TempDir,
}

fn live(timeout: u64) -> Live {
    let codex_timeout = Duration::from_millis(timeout);
    Live::new(Changeable { codex_timeout, ..Changeable::default() }, Vec::new())
}

fn lab(script: &str, timeout: u64) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    let auth = r#"{"auth_mode":"chatgpt","tokens":{"access_token":"a"}}"#;
    fs::write(home.join("auth.json"), auth).unwrap();
    let bin = dir.path().join("codex");
    let version = r#"[ "$1" != --version ] || exit 0"#;
    write_program(&bin, &format!("#!/bin/sh\n{version}\n{script}\n"));
    let engine = ExecEngine {
        bin,
        model: None,
        environment: vec![("PATH", std::env::var_os("PATH").unwrap())],
        live: live(timeout),
        logins: Logins::new(
            &[LoginHome { label: "one".into(), path: home }],
            Arc::new(|_| {}),
            Live::default(),
        ),
        spawner: Arc::new(Spawner::new().unwrap()),
        shadows: dir.path().join("shadows"),
    };
    let turn = Turn {
        job_id: "img_0".into(),
        position: 0,
        prompt: "a kite".into(),
        size: "auto".into(),
        quality: "auto".into(),
        background: "auto".into(),
        has_mask: false,
        references: Vec::new(),
        dir: dir.path().join("turn"),
    };
    Lab { engine, turn, dir }
}

async fn draw(lab: &Lab) -> (Finished, u32) {
    let told = AtomicU32::new(0);
    let sink = |step: Step| -> BoxFuture<'_, ()> {
        let Step::Thread(thread) = step else { return Box::pin(std::future::ready(())) };
        assert_eq!((thread.login.as_str(), thread.thread.as_str()), ("one", THREAD));
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            told.fetch_add(1, Ordering::Relaxed);
        })
    };
    let finished = lab.engine.draw(&lab.turn, &sink, CancellationToken::new()).await;
    (finished, told.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_picture_counts_whatever_the_exit_status() {
    let lab = lab(&format!("cat > \"$CODEX_HOME/prompt\"\n{START}\n{DRAW}\nexit 3"), 10_000);
    let (finished, told) = draw(&lab).await;
    assert_eq!((finished.candidates.len(), told), (1, 1));
    assert_eq!(finished.failure, None);
    assert_eq!(finished.thread.as_ref().unwrap().thread, THREAD);
    assert!(finished.stdout.contains("thread.started"));
    let prompt = fs::read_to_string(lab.dir.path().join("home/prompt")).unwrap();
    assert!(prompt.contains("a kite"));

    let again = lab.engine.recover(&lab.turn, None).await;
    assert_eq!((again.candidates, again.failure), (finished.candidates.clone(), None));
    lab.engine.forget(&finished.thread.unwrap()).await.unwrap();
    assert!(!finished.candidates[0].exists());
}

#[tokio::test]
async fn the_deadline_ends_the_whole_group_and_keeps_the_picture() {
    let script = format!("{START}\n{DRAW}\nsleep 60 &\necho $! > \"$CODEX_HOME/pid\"\nsleep 60");
    let lab = lab(&script, 3000);
    let begun = Instant::now();
    let (finished, told) = draw(&lab).await;
    assert!(begun.elapsed() < Duration::from_secs(40));
    assert_eq!(finished.failure.unwrap().code, FailureCode::Timeout);
    assert_eq!((finished.candidates.len(), told), (1, 1));
    let pid = fs::read_to_string(lab.dir.path().join("home/pid")).unwrap();
    // Killed, it ends when it is given a processor.
    let end = Instant::now() + Duration::from_secs(40);
    loop {
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            break;
        }
        assert!(Instant::now() < end, "{state}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_stopped_run_is_interrupted() {
    let lab = lab(&format!("{START}\nsleep 60"), 60_000);
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    let sink = |_: Step| -> BoxFuture<'_, ()> {
        let cancel = cancel.clone();
        Box::pin(async move { cancel.cancel() })
    };
    let finished = lab.engine.draw(&lab.turn, &sink, stop).await;
    assert_eq!(finished.failure.unwrap().code, FailureCode::Interrupted);
    assert_eq!(finished.thread.unwrap().thread, THREAD);
}

#[tokio::test]
async fn a_flood_is_ended() {
    let lab = lab(&format!("{START}\nexec yes '{{\"type\":\"noise\"}}'"), 60_000);
    let (finished, told) = draw(&lab).await;
    assert_eq!(told, 1);
    assert!(finished.failure.unwrap().message.contains("far more output"));
    assert!(finished.stdout.len() <= 64 * 1024 && finished.stdout.contains("left out"));
}

#[tokio::test]
async fn a_hung_end_of_a_finished_turn_is_no_timeout_of_the_turn() {
    let done =
        r#"echo '{"type":"turn.failed","error":{"message":"usage limit; try again in 1 hour"}}'"#;
    let lab = lab(&format!("{START}\n{done}\nsleep 60"), 3000);
    let (finished, _) = draw(&lab).await;
    let failure = finished.failure.unwrap();
    assert_eq!(failure.code, FailureCode::QuotaExceeded);
    assert!(failure.retry_at.is_some());
}

#[tokio::test]
async fn recovery_waits_for_who_still_holds_the_login() {
    // What outlives its group here stands for a Codex that outlives the service.
    let wait = r#"until [ -e "$CODEX_HOME/go" ]; do sleep 0.05; done"#;
    let late = format!("setsid sh -c '{wait}; {}' &", DRAW.replace('\'', "'\\''"));
    let lab = lab(&format!("{START}\n{late}\nsleep 0.3; exit 0"), 10_000);
    let (finished, _) = draw(&lab).await;
    assert!(finished.candidates.is_empty());
    let recovery = lab.engine.recover(&lab.turn, None);
    tokio::pin!(recovery);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut recovery).await;
    assert!(early.is_err(), "it did not wait");
    fs::write(lab.dir.path().join("home/go"), "").unwrap();
    assert_eq!(recovery.await.candidates.len(), 1);
}

#[tokio::test]
async fn what_never_began_left_nothing() {
    let lab = lab("exit 0", 1000);
    let found = lab.engine.recover(&lab.turn, None).await;
    assert_eq!(found.failure.unwrap().code, FailureCode::Interrupted);
    assert!(lab.engine.problems().is_empty());
}

#[tokio::test]
async fn nothing_to_draw_with_is_said_at_once() {
    let mut lab = lab("exit 0", 1000);
    fs::remove_file(lab.dir.path().join("home/auth.json")).unwrap();
    let (finished, _) = draw(&lab).await;
    assert_eq!(finished.failure.unwrap().code, FailureCode::NotLoggedIn);
    lab.engine.bin = lab.dir.path().join("none");
    let (finished, _) = draw(&lab).await;
    assert_eq!(finished.failure.unwrap().code, FailureCode::CodexMissing);
    let codes: Vec<_> = lab.engine.problems().into_iter().map(|problem| problem.code).collect();
    assert_eq!(codes, [FailureCode::CodexMissing, FailureCode::NotLoggedIn]);
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_not_nothing() {
    // A loop of links stands for every error that does not say that nothing is there.
    let block = r#"ln -s generated_images "$CODEX_HOME/generated_images""#;
    let lab = lab(&format!("{START}\n{block}"), 10_000);
    let unblock = || fs::remove_file(lab.dir.path().join("home/generated_images")).unwrap();
    let (finished, _) = draw(&lab).await;
    assert!(finished.unsure && finished.candidates.is_empty());
    assert_eq!(finished.failure.unwrap().code, FailureCode::CodexError);
    assert!(finished.thread.is_some());
    assert!(lab.engine.recover(&lab.turn, None).await.unsure);
    unblock();
    let found = lab.engine.recover(&lab.turn, None).await;
    assert!(!found.unsure);
    assert_eq!(found.failure.unwrap().code, FailureCode::Interrupted);
}

#[tokio::test]
async fn another_login_does_not_draw_what_the_first_may_have_drawn() {
    let script = format!(
        r#"{START}
echo x >> "$(dirname "$CODEX_HOME")/runs"
ln -s generated_images "$CODEX_HOME/generated_images"
echo '{{"type":"turn.failed","error":{{"message":"usage limit; try again in 1 hour"}}}}'"#
    );
    let lab = two(lab(&script, 10_000));
    let (finished, _) = draw(&lab).await;
    assert!(finished.unsure);
    assert_eq!(finished.failure.unwrap().code, FailureCode::QuotaExceeded);
    assert_eq!(fs::read_to_string(lab.dir.path().join("runs")).unwrap(), "x\n");
}

/// With a second login, `two`.
fn two(mut lab: Lab) -> Lab {
    let (one, two) = (lab.dir.path().join("home"), lab.dir.path().join("home2"));
    fs::create_dir(&two).unwrap();
    fs::copy(one.join("auth.json"), two.join("auth.json")).unwrap();
    let homes = [("one", one), ("two", two)];
    lab.engine.logins = Logins::new(
        &homes.map(|(label, path)| LoginHome { label: label.into(), path }),
        Arc::new(|_| {}),
        Live::default(),
    );
    lab
}

#[tokio::test]
async fn a_lock_that_cannot_be_waited_for_leaves_it_open() {
    let lab = lab(START, 10_000);
    let (finished, _) = draw(&lab).await;
    assert!(!finished.unsure);
    let lock = lab.dir.path().join("home/.codex-image-service.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    assert!(lab.engine.recover(&lab.turn, None).await.unsure);
    fs::remove_dir(&lock).unwrap();
    assert!(!lab.engine.recover(&lab.turn, None).await.unsure);
}

#[tokio::test]
async fn a_picture_that_was_found_counts_although_not_all_could_be_looked_at() {
    let lab = lab(&format!("{START}\n{DRAW}"), 10_000);
    draw(&lab).await;
    let lock = lab.dir.path().join("home/.codex-image-service.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let found = lab.engine.recover(&lab.turn, None).await;
    assert!(found.unsure && found.failure.is_none());
    assert_eq!(found.candidates.len(), 1);
}

#[tokio::test]
async fn a_folder_of_a_turn_that_cannot_be_read_leaves_it_open() {
    let lab = lab(&format!("{START}\n{DRAW}"), 10_000);
    let known = draw(&lab).await.0.thread;
    for (name, known, found) in
        [(EVENTS, None, 0), (EVENTS, known.clone(), 1), (LOGIN, known.clone(), 0)]
    {
        let path = lab.turn.dir.join(name);
        let text = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap(); // it can be opened and not be read
        let left = lab.engine.recover(&lab.turn, known).await;
        assert!(left.unsure, "{name}");
        assert_eq!(left.candidates.len(), found, "{name}");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, text).unwrap();
    }
    assert!(!lab.engine.recover(&lab.turn, known).await.unsure);
}

#[tokio::test]
async fn what_fails_before_codex_runs_is_certain() {
    let mut lab = lab(&format!("{START}\n{DRAW}"), 10_000);
    lab.turn.references = vec![lab.dir.path().join("missing.png")];
    let (finished, told) = draw(&lab).await;
    assert_eq!((finished.unsure, told), (false, 0));
    assert_eq!(finished.failure.unwrap().code, FailureCode::CodexError);
    lab.turn.references.clear();
    fs::write(&lab.turn.dir, "").ok(); // it is there already
    fs::remove_dir_all(&lab.turn.dir).unwrap();
    fs::write(&lab.turn.dir, "").unwrap();
    let (finished, told) = draw(&lab).await;
    assert_eq!((finished.unsure, told), (false, 0));
    assert_eq!(finished.failure.unwrap().code, FailureCode::CodexError);
}

#[tokio::test]
async fn a_login_may_get_another_name() {
    let mut lab = two(lab(&format!("{START}\n{DRAW}"), 10_000));
    let (finished, _) = draw(&lab).await;
    let old = finished.thread.unwrap();
    let homes = lab.engine.logins.homes().iter().rev();
    let renamed: Vec<_> = homes
        .map(|home| LoginHome { label: format!("new-{}", home.label), ..home.clone() })
        .collect();
    lab.engine.logins = Logins::new(&renamed, Arc::new(|_| {}), Live::default());

    let new = ThreadRef { login: "new-one".into(), ..old.clone() };
    // The folder names the old login, and the store names it or what lags behind.
    let lagging = ThreadRef { login: "new-two".into(), thread: "00000000".into() };
    for known in [None, Some(old.clone()), Some(lagging)] {
        let found = lab.engine.recover(&lab.turn, known).await;
        assert_eq!((&found.candidates, found.thread.as_ref()), (&finished.candidates, Some(&new)));
    }
    assert_eq!(lab.engine.kept_threads().await, [new]);
    lab.engine.forget(&old).await.unwrap();
    assert_eq!(lab.engine.kept_threads().await, []);
}

#[tokio::test]
async fn a_child_gets_the_limit_of_open_files_that_the_service_was_started_with() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    let soft = 700;
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: hard }).unwrap();
    let raised = crate::limits::raise_descriptor_limit();
    assert_eq!(raised, hard.unwrap_or(u64::MAX));
    assert_eq!(crate::limits::raise_descriptor_limit(), raised);
    assert_eq!(getrlimit(Resource::Nofile).current, hard);

    let lab = lab(r#"(ulimit -Sn; ulimit -Hn) > "$CODEX_HOME/limits""#, 10_000);
    draw(&lab).await;
    let limits = fs::read_to_string(lab.dir.path().join("home/limits")).unwrap();
    let hard = hard.map_or("unlimited".to_owned(), |hard| hard.to_string());
    assert_eq!(limits, format!("{soft}\n{hard}\n"));
}
