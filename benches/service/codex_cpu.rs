//! What a small picture costs in processor time of Codex and its helper: on a warm app-server, and
//! by `codex exec`, in turns.

use super::{
    codex::{Cpu, adopt_orphans, adopted, app_server, cpu, draw, helpers, lasting},
    stats::median,
    support::{Backend, HomeOptions, Service, Setup},
    table::Row,
};

const PICTURES: u32 = 24;
const ROUNDS: usize = 5;
const WARM: usize = 5;

pub fn rows() -> Result<Vec<Row>, String> {
    adopt_orphans();
    let backend = Backend::start();
    let served = lasting(Setup::served(&backend, &[HomeOptions::default()]), 1).start();
    let exec = lasting(Setup::real(&backend), 1).start();
    draw(&served, WARM, 1, |_| ());
    draw(&exec, 1, 1, |_| ());
    let pid = app_server(&served);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push((by_server(&served, pid)?, by_exec(&exec)?));
    }
    if app_server(&served) != pid {
        return Err("the app-server was replaced".to_owned());
    }
    let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of).collect());
    let (ours, exec) = (middle(|round| round.0.0), middle(|round| round.1.0));
    let (ours_helper, exec_helper) = (middle(|round| round.0.1), middle(|round| round.1.1));
    let ratio = middle(|round| round.1.0 / round.0.0);
    let of = format!("{PICTURES} small pictures, one at a time, median of {ROUNDS}");
    let how = |helper: f64| format!("{of}; {helper:.0} ms of it the helper's");
    Ok(vec![
        Row::plain("CPU a picture", &format!("{ours:.0} ms"), &how(ours_helper)),
        Row::plain("CPU a picture: exec", &format!("{exec:.0} ms"), &how(exec_helper)),
        Row::plain("CPU: exec / app-server", &format!("{ratio:.1}"), "median of the rounds"),
    ])
}

/// Milliseconds a picture, and the helper's share: of an app-server, of exec.
type Round = ((f64, f64), (f64, f64));

fn by_server(service: &Service, pid: i32) -> Result<(f64, f64), String> {
    let used = || {
        let server = cpu(pid).ok_or("the app-server is gone")?;
        let helper: f64 = helpers(pid).into_iter().filter_map(cpu).map(|of| of.own).sum();
        Ok::<_, String>((server.own, server.children + helper))
    };
    let before = used()?;
    draw(service, PICTURES as usize, 1, |_| ());
    let after = used()?;
    Ok(each(after.0 - before.0, after.1 - before.1))
}

/// The service waits for each Codex, whose helper is killed with it and comes to this process.
fn by_exec(service: &Service) -> Result<(f64, f64), String> {
    let used = || {
        service.wait_for_no_orphans();
        let Cpu { children, .. } = cpu(service.pid()).ok_or("the service is gone")?;
        Ok::<_, String>(children)
    };
    let before = used()?;
    adopted();
    draw(service, PICTURES as usize, 1, |_| ());
    let after = used()?;
    Ok(each(after - before, adopted()))
}

fn each(codex: f64, helper: f64) -> (f64, f64) {
    let pictures = f64::from(PICTURES);
    ((codex + helper) / pictures, helper / pictures)
}
