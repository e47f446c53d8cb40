//! Processes by what `/proc` says of them.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// Living processes whose environment mentions `needle`, a folder of the test's own: everything a
/// service started there, whatever became of its parents. This process is never among them.
pub fn mentioning(needle: &Path) -> Vec<i32> {
    let needle = needle.as_os_str().as_encoded_bytes();
    let own = std::process::id().cast_signed();
    let found = all().filter(|pid| *pid != own);
    let found = found.filter(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.windows(needle.len()).any(|window| window == needle)
    });
    found.collect()
}

/// Children of `parent` that have ended and were never waited for.
pub fn zombies_of(parent: i32) -> Vec<i32> {
    let is_zombie = |pid: &i32| stat(*pid).is_some_and(|(state, of)| state == "Z" && of == parent);
    all().filter(is_zombie).collect()
}

/// The parent of a living process.
pub fn parent(pid: i32) -> Option<i32> {
    stat(pid).map(|(_, parent)| parent)
}

/// The command line, blanks between the arguments; for messages.
pub fn command_line(pid: i32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw).replace('\0', " ")
}

/// Waits until a child has ended, and tells for how long it used a processor; it is still to be
/// waited for by its parent.
pub fn work_until_end(pid: i32) -> Duration {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let ended = rustix::process::waitid(WaitId::Pid(Pid::from_raw(pid).unwrap()), options);
    assert!(ended.unwrap().is_some(), "it has ended");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime of proc_pid_stat(5), in hundredths of a second.
    let ticks = |field: usize| fields[field].parse::<u64>().unwrap();
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// Resident memory in KiB.
pub fn resident_kib(pid: i32) -> Option<u64> {
    kib(pid, "VmRSS:")
}

/// The most resident memory since the start, or since [`forget_peak`], in KiB.
pub fn peak_kib(pid: i32) -> Option<u64> {
    kib(pid, "VmHWM:")
}

/// Begins a new measurement of [`peak_kib`] at what is resident now.
pub fn forget_peak(pid: i32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

fn kib(pid: i32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Sends `signal`; a process that is gone already is fine.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// State and parent.
fn stat(pid: i32) -> Option<(String, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything.
    let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
    Some((rest.next()?.to_owned(), rest.next()?.parse().ok()?))
}
