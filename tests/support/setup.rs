//! A service before it is started: its folder, its settings, its Codex.

use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
};

use super::{
    Backend, HomeOptions, admin, codex_binary, codex_home, fake, service::Service, temp_dir,
};

/// A service that is not started yet: its folder and its settings.
pub struct Setup {
    pub(super) dir: tempfile::TempDir,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, OsString)>,
}

impl Setup {
    /// `serve` in a fresh folder on a free port; no Codex chosen yet.
    pub fn new() -> Self {
        let dir = temp_dir();
        for folder in ["state", "home", "cwd"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let setup = Self {
            program: env!("CARGO_BIN_EXE_codex-image-service").into(),
            args: vec!["serve".to_owned()],
            env: Vec::new(),
            dir,
        };
        let (state, home) = (setup.path("state"), setup.path("home"));
        setup
            .set("STATE_DIR", state)
            .set("HOME", home)
            .set("PATH", "/usr/local/bin:/usr/bin:/bin")
            .set("LISTEN", address.to_string())
            .set("RUST_BACKTRACE", "1")
    }

    /// With the painter: no Codex at all.
    pub fn painter() -> Self {
        Self::new().set("CODEX_ENGINE", "demo")
    }

    /// The same, and the admin pages with [`admin::PASSWORD`].
    pub fn admin() -> Self {
        Self::painter().set("ADMIN_PASSWORD", admin::PASSWORD)
    }

    /// With the scripted fake; its home is [`Service::codex_home`].
    pub fn fake() -> Self {
        let setup = Self::new();
        let home = fake::home(&setup.path("codex"));
        setup.set("CODEX_ENGINE", "exec").set("CODEX_BIN", fake::binary()).set("CODEX_HOMES", home)
    }

    /// The same with several logins; their homes are `codex`, `codex2`, `codex3`, …
    pub fn fake_with_logins(count: usize) -> Self {
        let setup = Self::fake();
        let homes: Vec<String> = (1..=count)
            .map(|number| if number == 1 { "codex".to_owned() } else { format!("codex{number}") })
            .map(|name| fake::home(&setup.path(&name)).to_str().unwrap().to_owned())
            .collect();
        setup.set("CODEX_HOMES", homes.join(":"))
    }

    /// With the real Codex, logged in to `backend`, by `codex exec`.
    pub fn real(backend: &Backend) -> Self {
        Self::real_with(backend, &HomeOptions::default())
    }

    /// The same with a login of another kind.
    pub fn real_with(backend: &Backend, login: &HomeOptions) -> Self {
        let setup = Self::new();
        let home = codex_home(&setup.path("codex"), backend, login);
        let setup = setup
            .set("CODEX_ENGINE", "exec")
            .set("CODEX_BIN", codex_binary())
            .set("CODEX_HOMES", home);
        backend.env().into_iter().fold(setup, |setup, (key, value)| setup.set(&key, value))
    }

    /// With the real Codex as an app-server, which is the default engine, on several logins. Their
    /// homes are `codex`, `codex2`, …
    pub fn served(backend: &Backend, logins: &[HomeOptions]) -> Self {
        let mut setup = Self::real_with(backend, &logins[0]).unset("CODEX_ENGINE");
        let mut homes = vec![setup.path("codex")];
        for (number, login) in logins.iter().enumerate().skip(1) {
            homes.push(codex_home(&setup.path(&format!("codex{}", number + 1)), backend, login));
        }
        let homes: Vec<_> = homes.iter().map(|home| home.to_str().unwrap()).collect();
        setup = setup.set("CODEX_HOMES", homes.join(":"));
        setup.set("CODEX_WORKER_CONCURRENCY", "16")
    }

    /// A setting, as an environment variable; a later one replaces an earlier one.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<OsString>) -> Self {
        put(&mut self.env, key, value.into());
        self
    }

    /// Takes a setting away.
    #[must_use]
    pub fn unset(mut self, key: &str) -> Self {
        self.env.retain(|(known, _)| known != key);
        self
    }

    /// Further arguments of `serve`.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Another program than the one under test, for trying the harness.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// A path in the folder that goes with the test: `state`, `home`, `cwd`, `codex` and more.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program under test, for commands without a service.
    pub fn program_path(&self) -> &PathBuf {
        &self.program
    }

    /// All settings.
    pub fn environment(&self) -> impl Iterator<Item = (&str, &OsString)> {
        self.env.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The address in `LISTEN`, for what stands before the service.
    pub fn address(&self) -> SocketAddr {
        let (_, address) = self.environment().find(|(name, _)| *name == "LISTEN").unwrap();
        address.to_str().unwrap().parse().unwrap()
    }

    /// Starts it and waits until `/health` answers 200.
    pub fn start(self) -> Service {
        let mut service = self.stopped();
        service.start();
        service
    }

    /// A service to be started later by [`Service::start`], for tests of the start itself.
    pub fn stopped(self) -> Service {
        Service::of(self)
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) fn put(env: &mut Vec<(String, OsString)>, key: &str, value: OsString) {
    env.retain(|(known, _)| known != key);
    env.push((key.to_owned(), value));
}

/// A port that nobody has now, below the range from which the kernel takes ports for outgoing
/// connections: it stays free while a service restarts.
pub(super) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(7919) % u32::from(COUNT);
    let begin = u16::try_from(begin).expect("less than COUNT");
    let free = (0..COUNT).find_map(|_| {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (begin + step % COUNT) % COUNT;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|_| port)
    });
    free.expect("a free port")
}
