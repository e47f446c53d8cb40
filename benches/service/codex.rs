//! The processes of the real Codex that a service started, and what the kernel says of them.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use rustix::process::{Pid, WaitOptions};

use super::support::{Service, Setup, process, wait_for};

/// Never reached: that a child is replaced must not make its figures look better.
const NEVER: &str = "1000000";
/// The kernel tells times in hundredths of a second, whatever its own clock is.
const MILLISECONDS_A_TICK: f64 = 10.0;

/// As many pictures at once as `CODEX_WORKER_CONCURRENCY` says, on a child that is not replaced.
pub fn lasting(setup: Setup, at_once: usize) -> Setup {
    super::program(setup)
        .set("CODEX_WORKER_CONCURRENCY", at_once.to_string())
        .set("CODEX_RECYCLE_IMAGES", NEVER)
        .set("CODEX_MAX_RSS_MB", NEVER)
        .set("GENERATION_QUEUE_MAX_SIZE", "1000")
}

/// `count` pictures, asked for by `callers` that each wait for one before they want the next;
/// `each` is told how many there are by now. Panics when one fails.
pub fn draw(service: &Service, count: usize, callers: usize, each: impl Fn(usize) + Sync) {
    service.default_key();
    let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                while begun.fetch_add(1, Ordering::Relaxed) < count {
                    service.generate("a kite").expect(200);
                    each(ended.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
}

/// The one app-server of the service.
pub fn app_server(service: &Service) -> i32 {
    wait_for("one app-server", || {
        let mut found = service.orphans();
        found.retain(|pid| process::command_line(*pid).contains("bin/codex app-server"));
        (found.len() == 1).then(|| found[0])
    })
}

/// What it started itself.
pub fn helpers(server: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{server}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<_> = children.collect();
    children.iter().flat_map(|of| of.split_whitespace()).flat_map(str::parse).collect()
}

/// Times of a process in milliseconds, user and system together.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    /// Its own.
    pub own: f64,
    /// Of its children that have ended and were waited for, and theirs.
    pub children: f64,
}

/// What a process, or a zombie, has used.
pub fn cpu(pid: i32) -> Option<Cpu> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; utime is the 14th field.
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
    let ticks: Vec<u32> = fields.map_while(|field| field.parse().ok()).collect();
    let [user, system, of_children, their_system] = ticks[..] else { return None };
    let each = MILLISECONDS_A_TICK;
    Some(Cpu {
        own: f64::from(user + system) * each,
        children: f64::from(of_children + their_system) * each,
    })
}

/// From now on those whose parent ends become children of this process, to be looked at by
/// [`adopted`]: `codex exec` does not wait for its helper.
pub fn adopt_orphans() {
    let own = Pid::from_raw(std::process::id().cast_signed());
    rustix::process::set_child_subreaper(own).unwrap();
}

/// What those orphans that have ended have used, in milliseconds; they are waited for.
pub fn adopted() -> f64 {
    let ended = process::zombies_of(std::process::id().cast_signed());
    let used = ended.into_iter().filter_map(|pid| {
        let used = cpu(pid)?;
        rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::NOHANG).ok()?;
        Some(used.own + used.children)
    });
    used.sum()
}
