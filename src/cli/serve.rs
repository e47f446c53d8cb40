//! `serve`: puts the rooms together, and takes them apart again when asked to stop. It starts also
//! without Codex or a login, says that it is ready when it can be reached, and closes the store last.

mod bells;
mod idle;
mod manager;
mod reload;
mod stop;
mod upkeep;
mod work;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::ValueEnum;
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    bells::bells,
    idle::Door,
    manager::Tellers,
    reload::Reload,
    stop::{StopSignals, wait_for_the_end},
    work::Idling,
};
use super::{fail, listen};
use crate::{
    codex::{self, DemoEngine, Engine, LoginObserver},
    config::{Config, Sources},
    http::{self, App, server::Hall},
    limits, logins,
    queue::Queue,
    state_dir,
    store::Store,
    systemd::{self, Passed},
    telemetry::{self, Metrics},
};

/// How long open connections may take to end when everything else has.
const CLOSING: Duration = Duration::from_secs(5);

/// Start the service.
///
/// Front (HTTP) and worker (Codex) run in one process, or apart with --role: they share the
/// state directory and two doorbells in it. It starts also without Codex or a login: /ready and
/// the log say what is missing.
///
/// SIGTERM and SIGINT let running jobs end for `SHUTDOWN_GRACE_SECONDS`; a second one does not wait.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "\
Example:
  LISTEN=127.0.0.1:8000 STATE_DIR=/var/lib/codex-image-service codex-image-service serve

Exit codes: 0 stopped by a signal, 1 failed (a wrong setting, the address is taken, a database \
that is not ours), 2 wrong usage.")]
pub(super) struct Args {
    /// What this process does.
    #[arg(long, value_enum, default_value_t)]
    role: Role,
}

impl Args {
    /// Do front and worker run as two processes, perhaps of two users?
    pub(super) fn is_split(&self) -> bool {
        self.role != Role::All
    }
}

/// What a process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// Answers HTTP.
    Front,
    /// Runs Codex.
    Worker,
    /// Both.
    #[default]
    All,
}

/// What a started service tells.
pub(super) struct Started {
    /// Its store.
    pub(super) store: Store,
    /// Where it can be reached, `http://…`, or its socket.
    pub(super) url: String,
}

/// Descriptors that are not for connections: the store, Codex's files, pictures being stored and
/// served.
const RESERVED_FILES: usize = 256;

type Error = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn run(args: &Args, file: Option<PathBuf>) -> ExitCode {
    // Before any thread: it takes variables out of the environment.
    let passed = match Passed::take() {
        Ok(passed) => passed,
        Err(error) => return fail_to_start(&error),
    };
    let read = Sources::of_process(file)
        .and_then(|sources| Config::load(&sources).map(|config| (sources, config)));
    let (sources, config) = match read {
        Ok(read) => read,
        Err(error) => return fail_to_start(&error),
    };
    let guard = telemetry::init(config.live.now().log_level, config.log_format);
    let reload = Reload::new(sources, &config, guard.level());
    if args.role != Role::Worker {
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
    }
    if args.role != Role::Front {
        codex::seed_logins(&config, systemd::credentials_dir().as_deref());
    }
    let code =
        run_with(config, args.role, passed, Some(reload), codex::engine, async |_: Started| Ok(()));
    drop(guard);
    code
}

/// The service of `demo` on a socket of its own; `welcome` is called when it listens.
pub(super) fn run_demo<F, E>(
    config: Config,
    socket: std::net::TcpListener,
    delay: Duration,
    welcome: impl FnOnce(Started) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    let guard = telemetry::init(config.live.now().log_level, config.log_format);
    let painter =
        |_: &Config, _: LoginObserver| Ok(Arc::new(DemoEngine::new(delay)) as Arc<dyn Engine>);
    let socket = systemd::Listener::Tcp(socket).into();
    let code = run_with(config, Role::All, socket, None, painter, async |started| {
        welcome(started).await.map_err(Into::into)
    });
    drop(guard);
    code
}

fn run_with(
    config: Config,
    role: Role,
    passed: Passed,
    reload: Option<Reload>,
    engine: impl FnOnce(&Config, LoginObserver) -> io::Result<Arc<dyn Engine>>,
    started: impl AsyncFnOnce(Started) -> Result<(), Error>,
) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let served = runtime.block_on(async {
        let (observer, news) = logins::observer();
        let engine = if role == Role::Front { None } else { Some(engine(&config, observer)?) };
        serve(config, role, passed, reload, engine.map(|engine| (engine, news)), started).await
    });
    // Threads that still wait for something (a lock, a slow disk) must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Also where the journal does not look: a start that fails must be seen.
            fail_to_start(error.as_ref())
        }
    }
}

/// Says why also in `systemctl status`.
fn fail_to_start(error: &dyn std::error::Error) -> ExitCode {
    systemd::status(&format!("failed: {error}"));
    fail(error)
}

async fn serve(
    mut config: Config,
    role: Role,
    passed: Passed,
    reload: Option<Reload>,
    engine: Option<(Arc<dyn Engine>, logins::News)>,
    started: impl AsyncFnOnce(Started) -> Result<(), Error>,
) -> Result<(), Error> {
    state_dir::make(&config, role != Role::All)?;
    let open_files = limits::raise_descriptor_limit();
    let mut stop_signals = StopSignals::new()?;
    // Of a terminal that is closed the signal means what it means to everything that runs there.
    let reload = reload.filter(|_| !io::stdin().is_terminal());
    let hangup = reload.map(Reload::listen).transpose()?;
    let ends_after = config.idle_exit.filter(|_| !passed.is_empty());
    if ends_after != config.idle_exit {
        tracing::warn!(
            "IDLE_EXIT_SECONDS is ignored: systemd passed no socket, so nothing would start this \
             process again"
        );
    }
    let (listeners, bell) = match role {
        Role::Worker => (Vec::new(), passed.bell()?),
        Role::Front | Role::All => (listen::sockets(&config, passed.listeners()?).await?, None),
    };
    let store = Store::open(&config.database).await?;
    store.check_writable().await?;
    let metrics = Arc::new(Metrics::new());

    let draining = CancellationToken::new();
    let closing = CancellationToken::new();
    let hurry = CancellationToken::new();
    let stop_serving = CancellationToken::new();
    let (worker_bell, work_to_do, front_bell, finished) = bells(&config, role, bell)?;
    if let Some(instance) = store.instance_if_fresh().await? {
        // Before the first job, which makes files.
        state_dir::mark_empty_folders(&config, &instance);
    }

    let bells = work::Bells { worker: worker_bell.clone(), work_to_do, front: front_bell };
    let (engine, news) = engine.unzip();
    let idling = Idling { ends: ends_after.is_some(), ..Idling::default() };
    let stops = (&draining, &hurry);
    let (worker, beside) = engine
        .clone()
        .zip(news)
        .map(|of| work::start(&config, &store, of, bells, &metrics, &idling, stops))
        .unzip();

    let connections = TaskTracker::new();
    let mut door = None;
    let mut url = config.public_base_url.clone();
    if let Some(finished) = finished {
        let live = config.live.clone();
        let (draining, closing) = (draining.clone(), closing.clone());
        let queue = Queue::start(store.clone(), live, worker_bell, finished, draining, closing);
        let app = App::new(&config, store.clone(), queue, engine, metrics);
        if config.admin {
            open_pages(&app, &mut config).await?;
        }
        for listener in &listeners {
            url = listen::address_of(listener);
            tracing::info!(address = url, "listening");
        }
        let hall = Hall {
            router: http::router(app, &config),
            slots: Arc::new(Semaphore::new(connection_slots(&config, open_files))),
            stop: stop_serving.clone(),
            hang_up: watch::Sender::new(()),
            connections: connections.clone(),
            activity: idling.ends.then(|| idling.activity.clone()),
        };
        door.insert(Door::new(hall, listeners)).open();
    }
    started(Started { store: store.clone(), url }).await?;
    systemd::ready();
    if let Some(hangup) = hangup {
        hangup.whenever_asked(draining.clone());
    }
    let pulse = beside.as_ref().map(|beside| Arc::clone(&beside.pulse));
    let tellers = Tellers::start(&store, pulse, &draining);

    // It keeps the worker still until that has ended.
    let mut idled = None;
    let works = worker.is_some().then_some(&store);
    let idle = async {
        let Some(after) = ends_after else { return std::future::pending().await };
        idled = Some(idle::wait(after, door, &idling, works).await);
    };
    let live = &config.live;
    let outcome = wait_for_the_end(worker, &mut stop_signals, idle, stops, role, live).await;
    closing.cancel();
    stop_serving.cancel();
    connections.close();
    if tokio::time::timeout(CLOSING, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections that did not end are cut");
    }
    if let Some(beside) = beside {
        beside.end().await;
    }
    tellers.end().await;
    store.close().await;
    tracing::info!("{}", if idled.is_some() { "stopped: idle" } else { "stopped" });
    outcome
}

/// Makes the admin pages ready; a password that is made for them is shown where somebody sees it.
async fn open_pages(app: &App, config: &mut Config) -> Result<(), Error> {
    let made = app.open_admin(io::stderr().is_terminal()).await?;
    if let Some(password) = made {
        let url = config.admin_url();
        eprintln!(
            "The admin pages, {url}, have a new password, which is shown this once:\n\n  \
             user name  {}\n  password   {}\n\nFrom the first sign-in on it stays the same; \
             'codex-image-service admin reset-password' makes another.",
            config.admin_username,
            password.expose(),
        );
    }
    // The pages have what they need; the plain text is kept nowhere else.
    config.admin_password = None;
    config.admin_session_secret = None;
    Ok(())
}

/// As many as the setting allows, and no more than there are descriptors for: a stranger's idle
/// connections must leave the worker enough to store what was paid for.
fn connection_slots(config: &Config, open_files: u64) -> usize {
    let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
    let most = open_files.saturating_sub(RESERVED_FILES).max(1);
    if config.max_connections > most {
        tracing::warn!(
            max_connections = config.max_connections,
            open_files,
            "the limit of open files allows {most} connections only"
        );
    }
    config.max_connections.min(most)
}
