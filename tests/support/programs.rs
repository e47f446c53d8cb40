//! Programs that tests make, and what programs are given, so that a program which another thread
//! starts in the same moment does not matter: between its `fork` and its `exec` a child holds
//! whatever this process has open.

use std::{
    io::Write as _,
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Command, Stdio},
};

/// Writes a script that can be started. Not by this process: what any process has open to be
/// written cannot be executed.
pub fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success(), "{} cannot be written", path.display());
}

/// Copies a program, for the same reason not by this process.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").args([from, to]).status().unwrap();
    assert!(copied.success(), "{} cannot be copied", from.display());
}

/// An output that nobody reads. A pipe would have a reader for as long as such a child holds its
/// other end; a socket is shut down for all who hold it.
pub fn unread() -> OwnedFd {
    let (read, written) = UnixStream::pair().unwrap();
    read.shutdown(Shutdown::Both).unwrap();
    written.into()
}
