//! Starts Codex such that it does not outlive the service: in a process group of its own, with a
//! parent-death signal (or ending by itself at the end of its standard input), and with the login's
//! lock in its hands, so that a Codex that does outlive the service (its kernel is slow to end it,
//! or it finishes a refresh) keeps the login busy until it is gone.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    process::{ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread,
};

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::{
    io::unix::AsyncFd,
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

use super::sys;

/// What a child is started with.
pub(super) struct Launch {
    /// Program, arguments, environment and directory.
    pub(super) command: std::process::Command,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: File,
    pub(super) stderr: File,
    /// The login's lock; the child inherits it.
    pub(super) lock: Arc<File>,
    /// No file may be made larger than this.
    pub(super) largest_file: u64,
    /// What it gets when the service dies; none for one that ends by itself then.
    pub(super) death_signal: Option<Signal>,
}

struct Order {
    launch: Launch,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Running>>,
}

/// The thread that starts every child. The parent-death signal is sent when the *thread* that
/// started the child ends (prctl(2)), and threads of a runtime come and go.
pub(super) struct Spawner {
    orders: mpsc::Sender<Order>,
}

impl Spawner {
    pub(super) fn new() -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new().name("codex-spawn".into()).spawn(move || {
            for Order { launch, runtime, reply } in inbox {
                let _entered = runtime.enter();
                // A caller that went away drops what was started, which ends it.
                let _ = reply.send(start(launch));
            }
        })?;
        Ok(Self { orders })
    }

    pub(super) async fn spawn(&self, launch: Launch) -> io::Result<Running> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts Codex is gone");
        self.orders
            .send(Order { launch, runtime: Handle::current(), reply })
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn start(launch: Launch) -> io::Result<Running> {
    let Launch { command, stdin, stdout, stderr, lock, largest_file, death_signal } = launch;
    let mut command = Command::from(command);
    command
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr))
        .process_group(0)
        .kill_on_drop(true);
    sys::before_exec(&mut command, &lock, largest_file, death_signal);
    let child = command.spawn()?;
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("the child has no process id"))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    let ended = sys::readable(pidfd)?;
    Ok(Running { child, group: pid, ended, reaped: false })
}

/// A child and its group. Dropped while it runs, the whole group is killed.
pub(super) struct Running {
    child: Child,
    group: Pid,
    /// Readable when the leader has ended; it stays a zombie until [`Self::reap`], so that its
    /// number, which is the group's, cannot have gone to someone else.
    ended: AsyncFd<OwnedFd>,
    reaped: bool,
}

impl Running {
    /// The leader's process id.
    pub(super) fn pid(&self) -> Pid {
        self.group
    }

    /// Resolves when the leader has ended.
    pub(super) async fn ended(&self) {
        // An error of the reactor means that the runtime shuts down; the guard does the rest.
        let _ = self.ended.readable().await;
    }

    /// Sends a signal to all of the group.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.reaped {
            let _ = rustix::process::kill_process_group(self.group, signal);
        }
    }

    /// Kills what is left of the group, then takes the leader's status.
    pub(super) async fn reap(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        let status = self.child.wait().await;
        self.reaped = true;
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// A readable descriptor with this text and its end behind it: Codex waits for the end of its
/// standard input, and a text in an argument list would be seen by everyone on the machine.
pub(super) fn text_input(text: &str) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("prompt", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut bytes = text.as_bytes();
    while !bytes.is_empty() {
        let count = rustix::io::write(memory.as_fd(), bytes)?;
        bytes = &bytes[count..];
    }
    rustix::fs::seek(&memory, rustix::fs::SeekFrom::Start(0))?;
    Ok(memory)
}
