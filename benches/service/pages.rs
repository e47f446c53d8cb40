//! The admin pages over a long history: how long a page takes, and what an export keeps in memory.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::{
    memory::{bytes, mb},
    program,
    stats::{median, ms},
    support::{Browser, Setup, history, sqlite::Database},
    table::Row,
};

/// Jobs of the long history, and of the one that is searched.
const LONG: u32 = 1_000_000;
const SEARCHED: u32 = 100_000;
/// The median of so many looks counts.
const LOOKS: usize = 15;
const PAGE_TARGET: f64 = 15.0;
const SEARCH_TARGET: f64 = 200.0;
/// Growth of the peak by the export of the long history; it is some 600 MB.
const EXPORT_TARGET: u64 = 8_000_000;

pub fn long() -> Result<Vec<Row>, String> {
    let service = program(Setup::admin()).start();
    history::fill(&service, LONG);
    let key = Database::of(&service).texts("SELECT id FROM api_keys ORDER BY id")[0].clone();
    let mut browser = Browser::signed_in(&service);
    let overview = look(&mut browser, "/admin");
    let half = LONG / 2;
    let lists = [
        "requests".to_owned(),
        format!("requests?before={half}"),
        "requests?before=40".to_owned(),
        "requests?state=failed".to_owned(),
        format!("requests?state=expired&before={half}"),
        "requests?state=queued".to_owned(),
        format!("requests?key={key}&before={half}"),
        format!("requests?key={key}&state=cancelled&before={half}"),
        format!("requests?login=second&before={half}"),
        "requests?login=second&state=cancelled".to_owned(),
        "requests?login=nobody".to_owned(),
        "requests?from=2026-03-01&to=2026-03-02&state=failed".to_owned(),
        "requests?from=2030-01-01".to_owned(),
        format!("requests/img_{half:032x}"),
        "gallery".to_owned(),
        "gallery?login=second".to_owned(),
        "keys".to_owned(),
        "logins".to_owned(),
    ];
    let looked = lists.iter().map(|list| (look(&mut browser, &format!("/admin/{list}")), list));
    let (slowest, which) =
        looked.max_by(|one, other| one.0.total_cmp(&other.0)).ok_or("no page")?;
    // The sign-in hashed a password, in 19 MiB: the peak counts from here (proc(5), clear_refs).
    fs::write(format!("/proc/{}/clear_refs", service.pid()), "5").map_err(|why| why.to_string())?;
    let before = bytes(&service, "VmHWM")?;
    let begun = Instant::now();
    let reply = browser.get("/admin/requests/export?format=csv").expect(200);
    let took = begun.elapsed();
    let grown = bytes(&service, "VmHWM")? - before;
    let how = format!("a history of {LONG} jobs; median of {LOOKS}");
    let export = format!(
        "growth of VmHWM by {} in {:.0} s",
        mb(reply.body.len() as u64),
        took.as_secs_f64()
    );
    Ok(vec![
        Row::new("overview", "<= 15 ms", &shown(overview), overview <= PAGE_TARGET, &how),
        Row::new(
            "slowest other page",
            "<= 15 ms",
            &shown(slowest),
            slowest <= PAGE_TARGET,
            &format!("of {} kinds: {which}", lists.len()),
        ),
        Row::new("export", "<= 8 MB", &mb(grown), grown <= EXPORT_TARGET, &export),
    ])
}

#[allow(clippy::unnecessary_wraps, reason = "as the others")]
pub fn search() -> Result<Vec<Row>, String> {
    let service = program(Setup::admin()).start();
    history::fill(&service, SEARCHED);
    let mut browser = Browser::signed_in(&service);
    let nothing = look(&mut browser, "/admin/requests?q=nobody+asked+for+this");
    let how = format!("words that none of {SEARCHED} prompts has; median of {LOOKS}");
    Ok(vec![Row::new("search", "<= 200 ms", &shown(nothing), nothing <= SEARCH_TARGET, &how)])
}

/// Milliseconds until a page is there.
fn look(browser: &mut Browser<'_>, path: &str) -> f64 {
    let mut once = || -> Duration {
        let begun = Instant::now();
        browser.get(path).expect(200);
        begun.elapsed()
    };
    once();
    median((0..LOOKS).map(|_| ms(once())).collect())
}

fn shown(ms: f64) -> String {
    format!("{ms:.1} ms")
}
