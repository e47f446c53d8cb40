//! The service on a [`Machine`], installed by hand from `units/`, as on a distribution that is no
//! NixOS. A real Codex draws, inside the worker's unit; the stand-in of ChatGPT's backend listens
//! in the machine's network.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Backend, Endpoint, HomeOptions, Machine, PATIENCE, Plans, Reply, codex_binary, codex_home,
    wait_for_within,
};

/// The front's unit.
pub const FRONT: &str = "codex-image-service.service";
/// The worker's.
pub const WORKER: &str = "codex-image-worker.service";
/// The folder of the logins, the worker's alone.
pub const LOGINS: &str = "/var/lib/codex-image-worker/logins";
/// The settings.
pub const SETTINGS: &str = "/etc/codex-image-service/config.toml";

/// Where the project lies in the machine.
const PROJECT: &str = "/root/project";

/// An installed service with one login, `main`, and a key.
pub struct Installed {
    /// Where it runs.
    pub machine: Machine,
    /// What Codex talks to.
    pub backend: Backend,
    /// The key's text.
    pub key: String,
    /// The front's Unix socket.
    pub front: Endpoint,
    readme: Readme,
}

impl Installed {
    /// The units of `units/default/`, two users, on demand. None, and said, where there can be no
    /// machine.
    pub fn new(change: impl FnOnce(&Plans)) -> Option<Self> {
        Self::of("default", Path::new(env!("CARGO_BIN_EXE_codex-image-service")), change)
    }

    /// The units of a folder below `units/`, and a program. `change` may put files into the machine
    /// before, such as drop-ins.
    pub fn of(units: &str, program: &Path, change: impl FnOnce(&Plans)) -> Option<Self> {
        let mut plans = Plans::new()?;
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        plans.folder(&tests.join("units"), &format!("{PROJECT}/tests/units"));
        plans.show(program, &format!("{PROJECT}/target/release/codex-image-service"));
        // The binary finds its helper beside itself.
        let codex = codex_binary();
        plans.show(codex.parent().unwrap(), "/opt/codex");
        change(&plans);
        let machine = plans.boot();
        machine.sh("ln -s /opt/codex/codex /usr/bin/codex");
        let backend = Backend::at(machine.listen());
        // As a proxy or a certificate would be given to Codex.
        let endpoints = backend.env().map(|(name, value)| format!("Environment={name}={value}\n"));
        for unit in [FRONT, WORKER] {
            let path = format!("/etc/systemd/system/{unit}.d/endpoints.conf");
            machine.write(&path, &format!("[Service]\n{}", endpoints.concat()));
        }
        let readme = Readme::of(units);
        machine.sh(&readme.until("systemctl daemon-reload"));
        let front = Endpoint::Unix(machine.root("/run/codex-image-service/http.sock"));
        let mut installed = Self { machine, backend, key: String::new(), front, readme };
        installed.login(&HomeOptions::default());
        let readme = &installed.readme;
        let create = format!("{}{}", readme.line("as() {"), readme.line(" keys create "));
        installed.key = installed.machine.sh(&create);
        Some(installed)
    }

    /// Puts a login there, as after `codex login`.
    pub fn login(&self, options: &HomeOptions) {
        let dir = super::temp_dir();
        let home = codex_home(&dir.path().join("main"), &self.backend, options);
        let place = self.machine.root(&format!("{LOGINS}/main"));
        for entry in fs::read_dir(home).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), place.join(entry.file_name())).unwrap();
        }
        let owner = "$(stat -c %U:%G .)";
        self.machine.sh(&format!("cd {LOGINS}/main; chown {owner} *; chmod 600 *"));
    }

    /// Starts what listens; the rest starts on demand.
    pub fn enable(&self) {
        self.machine.sh(&self.readme.line("systemctl enable "));
    }

    /// A command of the service as the front's user.
    pub fn command(&self, words: &str) -> String {
        self.command_as("codex-image", words)
    }

    /// A command of the service as a user of its group.
    pub fn command_as(&self, user: &str, words: &str) -> String {
        self.machine.sh(&format!(
            "cd /; umask 007; exec setpriv --reuid={user} --regid=codex-image --clear-groups \
             env HOME=/var/empty codex-image-service --config {SETTINGS} {words}"
        ))
    }

    /// A request with the key; it may wait for the front to start.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Reply {
        let bearer = format!("Bearer {}", self.key);
        let mut all = vec![("authorization", &*bearer), ("content-type", "application/json")];
        all.extend(headers);
        let body = body.map(Value::to_string);
        self.front.request(method, path, &all, body.as_deref().map(str::as_bytes)).unwrap()
    }

    /// One picture, waited for.
    pub fn generate(&self, prompt: &str) -> Reply {
        self.request("POST", "/v1/images/generate", &[], Some(&json!({"prompt": prompt})))
    }

    /// One picture as a job; its id.
    pub fn submit(&self, prompt: &str) -> String {
        let reply = self.request("POST", "/v1/images/jobs", &[], Some(&json!({"prompt": prompt})));
        reply.expect(202).json()["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the job has ended, and gives it.
    pub fn wait_job(&self, id: &str) -> Value {
        let path = format!("/v1/images/jobs/{id}");
        wait_for_within(PATIENCE * 2, &format!("the end of {id}"), || {
            let job = self.request("GET", &path, &[], None).expect(200).json();
            (job["status"] != "queued" && job["status"] != "running").then_some(job)
        })
    }

    /// The login's file as it is now.
    pub fn auth(&self) -> Value {
        let text = fs::read(self.machine.root(&format!("{LOGINS}/main/auth.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Waits until no process of the service is left, Codex included.
    pub fn wait_until_nothing_runs(&self) {
        wait_for_within(Duration::from_mins(1), "the end of all processes of the service", || {
            self.processes().is_empty().then_some(())
        });
    }

    /// The processes of the service, `USER COMMAND` each.
    pub fn processes(&self) -> Vec<String> {
        let listed = self.machine.sh("ps -eo user:32=,args=");
        let ours = listed.lines().filter(|line| line.starts_with("codex-image"));
        ours.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// The main process of a unit, as this machine counts; 0 when it has none.
    pub fn pid(&self, unit: &str) -> i32 {
        self.machine.pid_here(self.machine.property(unit, "MainPID").parse().unwrap())
    }
}

/// The lines of the README's section for other distributions.
struct Readme(Vec<String>);

impl Readme {
    fn of(units: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let text = fs::read_to_string(path).unwrap();
        let (_, section) = text.split_once("\n## Other distributions\n").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
        Self(
            lines
                .map(|line| line.replace("tests/units/default", &format!("tests/units/{units}")))
                .collect(),
        )
    }

    /// The one line that has these words.
    fn line(&self, words: &str) -> String {
        let mut found = self.0.iter().filter(|line| line.contains(words));
        let line = found.next().unwrap_or_else(|| panic!("the README has no {words:?}"));
        format!("cd {PROJECT}\n{line}\n")
    }

    /// All lines up to the one with these words.
    fn until(&self, words: &str) -> String {
        let last = self.0.iter().position(|line| line.contains(words)).unwrap();
        format!("cd {PROJECT}\n{}", self.0[..=last].join("\n"))
    }
}

/// A drop-in for a unit, to be put into the machine before it boots.
pub fn drop_in(plans: &Plans, unit: &str, lines: &str) {
    let path = PathBuf::from("/etc/systemd/system").join(format!("{unit}.d/test.conf"));
    plans.file(path.to_str().unwrap(), &format!("[Service]\n{lines}\n"));
}
