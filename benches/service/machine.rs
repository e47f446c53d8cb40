//! What it was measured on.

use std::fs;

/// Cores, processor and kernel.
pub fn description() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, model)| model);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} cores of {model}, Linux {}", kernel.trim())
}

/// Load averages of one and five minutes.
pub fn load() -> String {
    read("/proc/loadavg").split_whitespace().take(2).collect::<Vec<_>>().join(" and ")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
