//! The worker's half of a service: the worker itself, and what works with its engine beside it. All
//! of it ends when the worker drains; what tells of the logins ends last.

use std::{io, sync::Arc};

use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{bells::WorkBell, upkeep};
use crate::{
    activity::Activity,
    codex::Engine,
    config::{Config, EngineChoice},
    logins::{self, News, Wanted},
    orders::Orders,
    queue::{
        bell::Doorbell,
        pause::Pause,
        pulse::Pulse,
        worker::{self, Workshop},
    },
    retention::Cleaner,
    store::Store,
    telemetry::Metrics,
    tell,
};

/// The bells of a worker.
pub(super) struct Bells {
    /// Its own.
    pub(super) worker: Doorbell,
    /// Where that is heard.
    pub(super) work_to_do: Option<WorkBell>,
    /// The front's.
    pub(super) front: Doorbell,
}

/// What works beside the worker.
pub(super) struct Beside {
    /// Whether the worker's loop turns.
    pub(super) pulse: Arc<Pulse>,
    engine: Arc<dyn Engine>,
    tasks: TaskTracker,
    keeper: JoinHandle<()>,
    keeping: CancellationToken,
}

/// What tells whether a worker may end, and lets it.
#[derive(Default)]
pub(super) struct Idling {
    /// What is under way.
    pub(super) activity: Activity,
    /// Keeps the worker still.
    pub(super) pause: Pause,
    /// It is going to end as soon as it has nothing to do.
    pub(super) ends: bool,
}

/// Starts the worker and what belongs to it.
pub(super) fn start(
    config: &Config,
    store: &Store,
    (engine, news): (Arc<dyn Engine>, News),
    bells: Bells,
    metrics: &Arc<Metrics>,
    idling: &Idling,
    (draining, hurry): (&CancellationToken, &CancellationToken),
) -> (JoinHandle<io::Result<()>>, Beside) {
    let activity = &idling.activity;
    let (tasks, keeping) = (TaskTracker::new(), CancellationToken::new());
    // Something about a login may have changed; an order was given; this worker is the only one.
    let (changed, given) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (on_duty, duty) = watch::channel(false);
    if config.codex_keep_alive && config.codex_engine != EngineChoice::Exec {
        tasks.spawn(logins::keep_alive(
            store.clone(),
            Arc::clone(&engine),
            duty.clone(),
            activity.clone(),
            idling.ends,
            draining.clone(),
        ));
    }
    let keeper = tokio::spawn(logins::keep(
        store.clone(),
        Arc::clone(&engine),
        news,
        Arc::clone(&changed),
        duty.clone(),
        keeping.clone(),
    ));
    upkeep::report_problems(engine.as_ref());
    let cleaner = Arc::new(Cleaner::new(config, store.clone(), Arc::clone(&engine)));
    let interval = config.cleanup_interval;
    upkeep::clean_up_regularly(
        interval,
        Arc::clone(&cleaner),
        activity.clone(),
        draining.clone(),
        &tasks,
    );
    let orders = Orders {
        store: store.clone(),
        engine: Arc::clone(&engine),
        cleaner,
        bell: bells.worker,
        given: Arc::clone(&given),
        changed: Arc::clone(&changed),
        activity: activity.clone(),
    };
    let (begin, first) = oneshot::channel();
    tasks.spawn(orders.carry_out(first, draining.clone()));
    let told = Arc::clone(&engine);
    let beginning = activity.begin();
    tasks.spawn(tell::front(store.clone(), told, changed, duty, beginning, draining.clone()));

    let shop = workshop(config, store, Arc::clone(&engine), bells.front, given, metrics, idling);
    let pulse = Arc::clone(&shop.pulse);
    let (heard, lock) = (bells.work_to_do, config.worker_lock());
    let (draining, hurry, beginning) = (draining.clone(), hurry.clone(), activity.begin());
    let worker = tokio::spawn(async move {
        let Some(heard) = heard else { return Ok(()) };
        let (store, engine) = (shop.store.clone(), Arc::clone(&shop.engine));
        let bell = async move || {
            // Nobody else works on the state any more, and what comes from here on is news.
            let wanted = Wanted::new(&store).await;
            logins::restore(&store, engine.as_ref()).await.map_err(io::Error::other)?;
            on_duty.send_replace(true);
            let _ = begin.send(wanted);
            heard.listen()
        };
        worker::work(shop, &lock, bell, beginning, draining, hurry).await
    });
    (worker, Beside { pulse, engine, tasks, keeper, keeping })
}

impl Beside {
    /// Waits for the end of all of it; the worker has drained.
    pub(super) async fn end(self) {
        // Also when there was no worker at work, or it failed: nobody cuts off a refresh.
        self.engine.close().await;
        self.tasks.close();
        self.tasks.wait().await;
        self.keeping.cancel();
        let _ = self.keeper.await;
    }
}

fn workshop(
    config: &Config,
    store: &Store,
    engine: Arc<dyn Engine>,
    front_bell: Doorbell,
    orders: Arc<Notify>,
    metrics: &Arc<Metrics>,
    idling: &Idling,
) -> Workshop {
    let (turns, jobs) = (Arc::clone(metrics), Arc::clone(metrics));
    Workshop {
        store: store.clone(),
        engine,
        live: config.live.clone(),
        generated_dir: config.generated_dir.clone(),
        workdir: config.codex_workdir.clone(),
        references_dir: config.references_dir(),
        front_bell,
        orders,
        activity: idling.activity.clone(),
        pause: idling.pause.clone(),
        on_turn: Arc::new(move |took| turns.codex_ran(took)),
        on_final: Arc::new(move |state, code| jobs.job_finished(state, code)),
        pulse: Arc::new(Pulse::new(worker::LONGEST_TURN)),
    }
}
