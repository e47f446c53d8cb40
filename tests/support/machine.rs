//! A machine of its own: a small Debian (`tests/run` makes its files in `.cache/machine`) booted by
//! systemd-nspawn, with a real systemd as its first process and a network of its own. What it
//! changes goes into memory, and with the machine.
//!
//! Needs root. Its processes, files and sockets can be reached from the test: commands by nsenter,
//! files and Unix sockets below [`Machine::root`].

use std::{
    fs::{self, File},
    io::{self, Read as _},
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{cannot_run, wait_for};

/// Runs in a mount namespace of its own. systemd-nspawn wants control groups that it may divide and
/// a tmpfs on /run; it waits for the tree that is laid over the Debian, which stays as it is.
const START: &str = r#"
set -e
base=$1 payload=$2 place=$3 name=$4; shift 4
for group in /sys/fs/cgroup /sys/fs/cgroup/unified; do
    [ -e $group/cgroup.subtree_control ] || continue
    mkdir $group/$name && echo 0 > $group/$name/cgroup.procs && break
done
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs $place
mkdir $place/up $place/work $place/tree
mount -t overlay overlay -o lowerdir=$base,upperdir=$place/up,workdir=$place/work $place/tree
cp -a $payload/. $place/tree/
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
exec systemd-nspawn -q --directory=$place/tree --boot --register=no --keep-unit --private-network \
    --console=pipe --machine=$name "$@" systemd.show_status=0
"#;

/// Where the control groups may be that [`START`] and systemd-nspawn make.
const GROUPS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/// A machine to be.
pub struct Plans {
    payload: tempfile::TempDir,
    options: Vec<String>,
}

impl Plans {
    /// An empty machine. None, and said, where there can be none.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            cannot_run("only root can start a machine");
            return None;
        }
        if !base().join("sbin/init").exists() {
            cannot_run("the machine's files are not there: run tests/run systemd once");
            return None;
        }
        Some(Self { payload: tempfile::tempdir().unwrap(), options: Vec::new() })
    }

    /// Puts a file into it.
    pub fn file(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Puts a copy of a folder into it.
    pub fn folder(&self, from: &Path, to: &str) {
        let to = self.path(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-rT").args([from, &to]).status().unwrap();
        assert!(copied.success(), "{} cannot be copied", from.display());
    }

    /// Shows a file or folder of this machine in it, not to be written.
    pub fn show(&mut self, from: &Path, to: &str) {
        self.options.push(format!("--bind-ro={}:{to}", from.display()));
    }

    fn path(&self, path: &str) -> PathBuf {
        self.payload.path().join(path.strip_prefix('/').expect("an absolute path"))
    }

    /// Boots it, and waits until all that is to be started has been.
    pub fn boot(self) -> Machine {
        let place = tempfile::tempdir().unwrap();
        let name = format!("machine-{}", uuid::Uuid::new_v4().simple());
        let mut start = Command::new("unshare");
        start.args(["--mount", "sh", "-c", START, "sh"]);
        start.arg(base()).args([self.payload.path(), place.path()]).arg(&name).args(&self.options);
        let console = place.path().with_extension("console");
        start.stdin(Stdio::null()).stdout(File::create(&console).unwrap());
        start.stderr(File::options().append(true).open(&console).unwrap());
        // A signal for the test's terminal is none for the machine.
        start.process_group(0);
        let nspawn = start.spawn().expect("unshare is there");
        let mut machine = Machine { name, nspawn, init: 0, console, _place: place };
        machine.wait_for_systemd();
        machine
    }
}

/// A running machine. It is cut off when this is dropped.
pub struct Machine {
    name: String,
    nspawn: Child,
    /// Its first process, as this machine counts.
    init: i32,
    console: PathBuf,
    _place: tempfile::TempDir,
}

impl Machine {
    fn wait_for_systemd(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.nspawn.id());
        self.init = wait_for("the machine's systemd", || {
            if let Some(ended) = self.nspawn.try_wait().unwrap() {
                panic!("the machine ended ({ended}):\n{}", self.console());
            }
            let child =
                fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()?;
            let ready = Path::new("/proc").join(format!("{child}/root/run/systemd/private"));
            ready.exists().then_some(child)
        });
        let state = wait_for("the end of the boot", || {
            let state = self.run("systemctl is-system-running --wait");
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            ["running", "degraded"].contains(&state.as_str()).then_some(state)
        });
        assert_eq!(state, "running", "{}", self.sh("systemctl --failed --no-pager || true"));
    }

    fn console(&self) -> String {
        fs::read_to_string(&self.console).unwrap_or_default()
    }

    /// A path of the machine as this machine sees it.
    pub fn root(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Runs lines of bash in the machine, as root.
    pub fn run(&self, script: &str) -> Output {
        self.command(script).stdin(Stdio::null()).output().unwrap()
    }

    /// The same, to be started by the caller.
    pub fn command(&self, script: &str) -> Command {
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--target={}", self.init));
        enter.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--"]);
        enter.args(["bash", "-euo", "pipefail", "-c", script]);
        enter.env_clear().env("PATH", "/usr/sbin:/usr/bin").env("LANG", "C.UTF-8");
        enter
    }

    /// Runs lines of bash that must succeed; gives what they say, without the last line's end.
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(script);
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(output.status.success(), "{script}\n{}\n{out}{err}", output.status);
        out.trim_end().to_owned()
    }

    /// Whether lines of bash succeed.
    pub fn holds(&self, script: &str) -> bool {
        self.run(script).status.success()
    }

    /// A property of a unit, `systemctl show`.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.sh(&format!("systemctl show --value -p {name} {unit}"))
    }

    /// Waits until a unit is in a state, `active` or `inactive`, say.
    pub fn wait_for_unit(&self, unit: &str, state: &str) {
        wait_for(&format!("{unit} to be {state}"), || {
            (self.property(unit, "ActiveState") == state).then_some(())
        });
    }

    /// What the journal has of a unit, or of what else is matched, as `journalctl` shows it.
    pub fn journal(&self, matches: &str) -> String {
        self.sh(&format!("journalctl --sync; journalctl --no-pager -o short-iso {matches}"))
    }

    /// Writes a file in the machine, and the folders on the way to it.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.root(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A process of the machine, as this machine counts; 0 when there is none such.
    pub fn pid_here(&self, there: i32) -> i32 {
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            entry.unwrap().file_name().to_str().and_then(|name| name.parse::<i32>().ok())
        });
        let ours = fs::read_link(format!("/proc/{}/ns/pid", self.init)).unwrap();
        let mut inside = pids.filter(|pid| {
            fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|found| found == ours)
        });
        let found = inside.find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            line.and_then(|pids| pids.split_whitespace().last()?.parse().ok()) == Some(there)
        });
        found.unwrap_or(0)
    }

    /// A listening socket in the machine's network, to be served from here.
    pub fn listen(&self) -> TcpListener {
        let namespace = File::open(format!("/proc/{}/ns/net", self.init)).unwrap();
        // Only a thread of its own can go there and never come back.
        let bind = move || -> io::Result<TcpListener> {
            move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(LinkNameSpaceType::Network),
            )?;
            TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        };
        std::thread::spawn(bind).join().unwrap().expect("a socket in the machine")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init != 0 {
            let journal = self
                .run("journalctl --sync; journalctl --no-pager -u 'codex-image*' | tail -n 100");
            println!("{}", String::from_utf8_lossy(&journal.stdout));
        }
        if let Some(init) = Pid::from_raw(self.init) {
            // All other processes of the machine go with its first.
            let _ = kill_process(init, Signal::KILL);
        }
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
        let _ = fs::remove_file(&self.console);
        for group in GROUPS.map(|base| Path::new(base).join(&self.name)) {
            wait_for("the machine's control groups to be empty", || {
                (!group.exists() || remove_groups(&group).is_ok()).then_some(())
            });
        }
    }
}

/// Control groups are removed from the leaves on.
fn remove_groups(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// The Debian that all machines begin as.
fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.cache/machine")
}
