//! The real binary as a child process: started with a cleared environment on a state directory of
//! its own, spoken to over a real socket, stopped, killed and started again.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    PATIENCE,
    http::{Connection, Endpoint, Reply},
    process,
    setup::{Setup, put},
    wait_for, wait_for_within,
};

/// The service; it and everything it started end with this value.
pub struct Service {
    setup: Setup,
    child: Option<Child>,
    /// Where in the log the latest start begins.
    log_from: usize,
    key: OnceLock<String>,
}

impl Service {
    /// Not started; see [`Setup::stopped`].
    pub(super) fn of(setup: Setup) -> Self {
        Self { setup, child: None, log_from: 0, key: OnceLock::new() }
    }

    /// Starts it (again) on the same folder and address; waits for `/health`.
    pub fn start(&mut self) {
        self.spawn();
        wait_for("/health", || {
            self.assert_alive();
            let reply = self.try_endpoint()?.request("GET", "/health", &[], None).ok()?;
            (reply.status == 200).then_some(())
        });
    }

    /// Starts it without waiting, in a process group of its own.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it is running already");
        self.log_from = self.log().len();
        let log =
            || fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.command(&[]);
        command.args(&self.setup.args).stdout(log()).stderr(log()).process_group(0);
        self.child = Some(command.spawn().unwrap());
    }

    /// The program with the service's settings and `args`, for other subcommands.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.setup.program);
        command
            .args(args)
            .env_clear()
            .envs(self.setup.env.iter().map(|(key, value)| (key, value)))
            .current_dir(self.path("cwd"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a subcommand to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// A setting for the next start.
    pub fn set(&mut self, key: &str, value: impl Into<OsString>) {
        put(&mut self.setup.env, key, value.into());
    }

    /// A path in the test's folder, see [`Setup::path`].
    pub fn path(&self, name: &str) -> PathBuf {
        self.setup.path(name)
    }

    /// `STATE_DIR`.
    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// The login of [`Setup::fake`] and [`Setup::real`].
    pub fn codex_home(&self) -> PathBuf {
        self.path("codex")
    }

    /// The process id; the service must be running.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("the service runs").id().cast_signed()
    }

    /// Everything it wrote to its standard streams, over all starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Waits until the log holds `words`.
    pub fn wait_for_log(&self, words: &str) {
        wait_for(&format!("{words:?} in the log"), || self.log().contains(words).then_some(()));
    }

    // Ending

    /// A crash: SIGKILL to the service alone. What it started may live on, as in a real crash.
    pub fn kill9(&mut self) {
        process::signal(self.pid(), Signal::KILL);
        self.wait_end(PATIENCE);
    }

    /// A power cut: SIGKILL to the service and everything it started.
    pub fn kill9_all(&mut self) {
        self.kill9();
        self.kill_orphans();
    }

    /// SIGTERM, then waits for the end, however long the service may take to finish its work.
    pub fn term(&mut self) -> ExitStatus {
        process::signal(self.pid(), Signal::TERM);
        self.wait_end(Duration::from_mins(2))
    }

    /// Waits for the end.
    pub fn wait_end(&mut self, patience: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("the service runs");
        let status = wait_for_within(patience, "the service's end", || child.try_wait().unwrap());
        let crash = [Signal::ABORT, Signal::SEGV, Signal::BUS, Signal::ILL].map(Signal::as_raw);
        let signal = status.signal().unwrap_or_default();
        assert!(!crash.contains(&signal), "{status}\n{}", self.log());
        status
    }

    /// Crashes it when it runs, and starts it again.
    pub fn restart(&mut self) {
        if self.child.is_some() {
            self.kill9();
        }
        self.start();
    }

    /// What it started and is still there, the service itself not counted.
    pub fn orphans(&self) -> Vec<i32> {
        let own = self.child.as_ref().map(|child| child.id().cast_signed());
        let mut found = process::mentioning(self.setup.dir.path());
        found.retain(|pid| Some(*pid) != own);
        found
    }

    /// Waits until nothing that it started is left.
    pub fn wait_for_no_orphans(&self) {
        wait_for("the end of all that was started", || self.orphans().is_empty().then_some(()));
    }

    fn kill_orphans(&self) {
        wait_for_within(Duration::from_secs(10), "the end of killed processes", || {
            let orphans = self.orphans();
            for pid in &orphans {
                process::signal(*pid, Signal::KILL);
            }
            orphans.is_empty().then_some(())
        });
    }

    fn assert_alive(&mut self) {
        let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
        if let Some(status) = ended {
            self.child = None;
            panic!("the service ended before it was ready: {status}\n{}", self.log());
        }
    }

    // Speaking

    /// Where it listens; with port 0 in `LISTEN`, where its log says so.
    pub fn endpoint(&self) -> Endpoint {
        self.try_endpoint().expect("it listens")
    }

    fn try_endpoint(&self) -> Option<Endpoint> {
        let listen = self.setup.env.iter().find(|(key, _)| key == "LISTEN")?.1.to_str()?;
        if let Some(path) = listen.strip_prefix("unix:") {
            return Some(Endpoint::Unix(path.into()));
        }
        let address: SocketAddr = listen.parse().ok()?;
        if address.port() != 0 {
            return Some(Endpoint::Tcp(address));
        }
        let log = self.log();
        let (_, said) = log.get(self.log_from..)?.split_once("address=")?;
        let said = said.split([' ', '\n', '"']).find(|word| !word.is_empty())?;
        said.parse().ok().map(Endpoint::Tcp)
    }

    /// The URL of `path`, for other clients.
    pub fn url(&self, path: &str) -> String {
        match self.endpoint() {
            Endpoint::Tcp(address) => format!("http://{address}{path}"),
            Endpoint::Unix(socket) => panic!("{} has no URL", socket.display()),
        }
    }

    /// A raw connection, for hostile callers.
    pub fn connect(&self) -> Connection {
        self.endpoint().connect().unwrap()
    }

    /// Makes a key by the command line.
    pub fn key(&self, name: &str) -> String {
        let output = self.run(&["keys", "create", name]);
        let key = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success() && key.starts_with("cimg_"), "no key: {output:?}");
        key
    }

    /// The key of the requests below, made when first needed.
    pub fn default_key(&self) -> &str {
        self.key.get_or_init(|| self.key("test"))
    }

    /// Any request with the default key.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Reply {
        let bearer = format!("Bearer {}", self.default_key());
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend(headers);
        self.request_bare(method, path, &all, body)
    }

    /// Any request with no other key than one in `headers`.
    pub fn request_bare(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Reply {
        let reply = self.endpoint().request(method, path, headers, body);
        reply.unwrap_or_else(|why| panic!("{method} {path}: {why}\n{}", self.log()))
    }

    /// Any request with this key.
    pub fn request_as(&self, key: &str, method: &str, path: &str, body: Option<&[u8]>) -> Reply {
        let bearer = format!("Bearer {key}");
        self.request_bare(method, path, &[("authorization", bearer.as_str())], body)
    }

    /// `keys enable|disable|delete` for the key of that name.
    pub fn change_key(&self, change: &str, name: &str) {
        let listed = self.run(&["keys", "list", "--json"]);
        let keys: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let known = keys.as_array().into_iter().flatten().find(|key| key["name"] == name);
        let id = known.and_then(|key| key["id"].as_str()).expect("a key of that name");
        let output = self.run(&["keys", change, id]);
        assert!(output.status.success(), "{output:?}");
    }

    /// GET with the default key.
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], None)
    }

    /// DELETE with the default key.
    pub fn delete(&self, path: &str) -> Reply {
        self.request("DELETE", path, &[], None)
    }

    /// POST of JSON with the default key.
    pub fn post_json(&self, path: &str, body: &Value) -> Reply {
        let headers = [("content-type", "application/json")];
        self.request("POST", path, &headers, Some(body.to_string().as_bytes()))
    }

    /// One picture, waited for.
    pub fn generate(&self, prompt: &str) -> Reply {
        self.post_json("/v1/images/generate", &json!({"prompt": prompt}))
    }

    /// One picture as a job; its id.
    #[track_caller]
    pub fn submit(&self, prompt: &str) -> String {
        let reply = self.post_json("/v1/images/jobs", &json!({"prompt": prompt})).expect(202);
        reply.json()["id"].as_str().expect("an id").to_owned()
    }

    /// The job as it is now.
    pub fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/images/jobs/{id}")).expect(200).json()
    }

    /// Waits until the job is neither queued nor running, and gives it.
    pub fn wait_job(&self, id: &str) -> Value {
        wait_for_within(PATIENCE * 2, &format!("the end of {id}"), || {
            Some(self.job(id)).filter(|job| job["status"] != "queued" && job["status"] != "running")
        })
    }

    /// The bytes of a picture by the URL of an answer, whatever the public prefix is.
    pub fn picture(&self, url: &str) -> Vec<u8> {
        let at = url.find("/generated/").unwrap_or_else(|| panic!("no URL of a picture: {url}"));
        self.endpoint().request("GET", &url[at..], &[], None).unwrap().expect(200).body
    }

    fn log_path(&self) -> PathBuf {
        self.path("service.log")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            println!("--- the service's log\n{}---", self.log());
            for pid in self.orphans() {
                process::signal(pid, Signal::KILL);
            }
        } else {
            self.kill_orphans();
        }
    }
}
