//! What the unit tests of this room share.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

/// Writes a script that can be started. Not by this process: what it has open to be written, a child
/// that another test starts in the same moment has, too, and nobody can execute that.
pub(super) fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}
