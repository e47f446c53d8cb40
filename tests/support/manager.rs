//! A service manager, as far as a socket unit and its service go: it holds the sockets, starts the
//! service when something waits in one of them, and again after the service has ended by itself.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
};

use super::{Service, process, wait_for};

/// A service that ends badly so often is not started any more.
const FAILURES: usize = 3;

/// Sockets and the service that is started for them. Both end with this value.
pub struct Unit {
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
    log: PathBuf,
}

struct State {
    start: Start,
    sockets: Vec<OwnedFd>,
    child: Option<Child>,
    starts: usize,
    ends: Vec<ExitStatus>,
}

/// How the service is started.
struct Start {
    service: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    dir: PathBuf,
    program: PathBuf,
    script: String,
    log: PathBuf,
}

impl Unit {
    /// Watches up to three sockets, each with its name, for `serve` with the service's settings
    /// and `args`. The log is `NAME.log` in the service's folder.
    pub fn watch(service: &Service, name: &str, args: &str, sockets: Vec<(OwnedFd, &str)>) -> Self {
        Self::new(service, name, args, sockets, true)
    }

    /// The same without watching: [`Unit::start`] starts it.
    pub fn hold(service: &Service, name: &str, args: &str, sockets: Vec<(OwnedFd, &str)>) -> Self {
        Self::new(service, name, args, sockets, false)
    }

    fn new(
        service: &Service,
        name: &str,
        args: &str,
        sockets: Vec<(OwnedFd, &str)>,
        on_demand: bool,
    ) -> Self {
        let log = service.path(&format!("{name}.log"));
        let (sockets, names): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
        let start = Start {
            service: environment(&service.command(&[])),
            dir: service.path("cwd"),
            program: service.command(&[]).get_program().into(),
            script: script(sockets.len(), &names.join(":"), args),
            log: log.clone(),
        };
        let state = State { start, sockets, child: None, starts: 0, ends: Vec::new() };
        let (state, over) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let watcher = on_demand.then(|| {
            let (state, over) = (Arc::clone(&state), Arc::clone(&over));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    lock(&state).turn();
                    thread::sleep(Duration::from_millis(1));
                }
            })
        });
        Self { state, over, watcher, log }
    }

    /// Starts it although nothing waits, as a timer does.
    pub fn start(&self) {
        let mut state = lock(&self.state);
        assert!(state.child.is_none(), "it is running already");
        state.spawn();
    }

    /// How often it was started.
    pub fn starts(&self) -> usize {
        lock(&self.state).starts
    }

    /// How it ended, each time.
    pub fn ends(&self) -> Vec<ExitStatus> {
        let mut state = lock(&self.state);
        state.reap();
        state.ends.clone()
    }

    /// The running service.
    pub fn pid(&self) -> Option<i32> {
        let mut state = lock(&self.state);
        state.reap();
        state.child.as_ref().map(|child| child.id().cast_signed())
    }

    /// Waits until it has ended so often.
    pub fn wait_for_end(&self, number: usize) {
        let end = || (self.ends().len() >= number).then_some(());
        wait_for(&format!("end {number} of {}", self.log.display()), end);
    }

    /// SIGTERM, and its end.
    pub fn term(&self) -> ExitStatus {
        let number = self.ends().len() + 1;
        process::signal(self.pid().expect("it runs"), Signal::TERM);
        self.wait_for_end(number);
        self.ends()[number - 1]
    }

    /// Everything it wrote, over all starts.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Every end so far was one that it chose itself.
    #[track_caller]
    pub fn assert_ended_well(&self) {
        let ends = self.ends();
        assert!(ends.iter().all(ExitStatus::success), "{ends:?}\n{}", self.log());
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
        if let Some(mut child) = lock(&self.state).child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let said = format!("--- {}\n{}---\n", self.log.display(), self.log());
            let _ = std::io::stderr().write_all(said.as_bytes());
        }
    }
}

impl State {
    fn turn(&mut self) {
        self.reap();
        let failures = self.ends.iter().filter(|end| !end.success()).count();
        if self.child.is_none() && failures < FAILURES && self.something_waits() {
            self.spawn();
        }
    }

    fn reap(&mut self) {
        if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
            self.child = None;
            self.ends.push(status);
        }
    }

    fn something_waits(&self) -> bool {
        let mut sockets: Vec<_> =
            self.sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        poll(&mut sockets, Some(&Timespec::default())).unwrap() > 0
    }

    fn spawn(&mut self) {
        let sockets = self.sockets.iter().map(|socket| socket.try_clone().unwrap());
        self.child = Some(self.start.command(sockets.collect()).spawn().unwrap());
        self.starts += 1;
    }
}

impl Start {
    fn command(&self, sockets: Vec<OwnedFd>) -> Command {
        let mut command = Command::new("sh");
        command.env_clear().envs(self.service.iter().map(|(key, value)| (key, value)));
        command.env("LOG", &self.log).current_dir(&self.dir);
        command.arg("-c").arg(&self.script).arg(&self.program);
        let mut sockets = sockets.into_iter().map(Stdio::from);
        let mut next = || sockets.next().unwrap_or_else(Stdio::null);
        command.stdin(next()).stdout(next()).stderr(next());
        command
    }
}

/// What [`Command`] can pass is moved to where systemd puts it, and `LISTEN_PID` is the service's
/// own: `exec` keeps it.
fn script(sockets: usize, names: &str, args: &str) -> String {
    let mut moves = String::new();
    for number in 0..sockets {
        write!(moves, "{}<&{number} ", number + 3).unwrap();
    }
    format!(
        "export LISTEN_PID=$$ LISTEN_FDS={sockets} LISTEN_FDNAMES={names}; \
         exec {moves} </dev/null >>\"$LOG\" 2>&1; exec \"$0\" serve {args}"
    )
}

fn environment(command: &Command) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    let known = command.get_envs().filter_map(|(key, value)| Some((key.into(), value?.into())));
    known.collect()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The inodes of the sockets that a process has open.
pub fn open_sockets(pid: i32) -> Vec<u64> {
    let files = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"));
    let links = files.into_iter().flatten().flatten().flat_map(|file| fs::read_link(file.path()));
    let inode = |link: PathBuf| {
        let text = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        text.parse().ok()
    };
    links.filter_map(inode).collect()
}
