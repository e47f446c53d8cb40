//! Load by wrk, and what it says.

use std::{path::Path, process::Command};

/// A run of wrk.
pub struct Load<'a> {
    /// Where to.
    pub url: &'a str,
    /// Open connections.
    pub connections: usize,
    /// For how long.
    pub seconds: u32,
    /// Further headers.
    pub headers: &'a [String],
    /// A Lua script for other requests than GET.
    pub script: Option<&'a Path>,
}

/// What came of it.
pub struct Outcome {
    /// Answers a second.
    pub rate: f64,
    /// Answers in all.
    pub answers: u64,
    /// The time that it took, in seconds.
    pub seconds: f64,
}

impl Load<'_> {
    /// Runs it; anything but 2xx and 3xx and whole answers is an error.
    pub fn run(&self) -> Result<Outcome, String> {
        let mut wrk = Command::new("wrk");
        wrk.args(["-t", "1", "-c", &self.connections.to_string()]);
        wrk.args(["-d", &format!("{}s", self.seconds), "--timeout", "10s"]);
        for header in self.headers {
            wrk.args(["-H", header]);
        }
        if let Some(script) = self.script {
            wrk.arg("-s").arg(script);
        }
        let output = wrk
            .arg(self.url)
            .output()
            .map_err(|why| format!("wrk can't be run ({why}); on Debian: apt-get install wrk"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let bad = |line: &&str| line.contains("Non-2xx") || line.contains("Socket errors");
        if let Some(line) = text.lines().find(bad) {
            return Err(format!("{}: {}", self.url, line.trim()));
        }
        parse(&text).ok_or_else(|| format!("wrk said: {text}{output:?}"))
    }
}

fn parse(text: &str) -> Option<Outcome> {
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?;
    // "  123456 requests in 3.00s, 12.34MB read"
    let total = text.lines().find(|line| line.contains(" requests in "))?;
    let (answers, rest) = total.trim().split_once(" requests in ")?;
    let (seconds, _) = rest.split_once("s,")?;
    Some(Outcome {
        rate: rate.trim().parse().ok()?,
        answers: answers.parse().ok()?,
        seconds: seconds.parse().ok()?,
    })
}
