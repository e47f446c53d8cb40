//! `demo`: the whole service with a painter instead of Codex, on throw-away state.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::{fail, keys, listen, serve};
use crate::{
    admin_password,
    config::{Config, Listen, Secret},
};

/// Try the service without Codex and without a login.
///
/// A painter draws pictures that say DEMO and show the prompt. State lives in a temporary folder
/// that is removed at the end. A key, a curl line that works and the way to the admin pages are
/// printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  codex-image-service demo --listen 127.0.0.1:8080

Exit codes: 0 ended by Ctrl-C or SIGTERM, 1 failed (the port is taken, say), 2 wrong usage.")]
pub(super) struct Args {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// How long the painter takes for a picture, in seconds, 0 to 600.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    delay: Duration,
}

pub(super) fn run(args: &Args) -> ExitCode {
    // Before anything else: with port 0 only the socket knows where the pictures will be.
    let (socket, address) = match listen::tcp("--listen", args.listen) {
        Ok(bound) => bound,
        Err(error) => return fail(&error),
    };
    let folder = match temporary_folder() {
        Ok(folder) => folder,
        Err(error) => return fail(&error),
    };
    let password = match admin_password::random() {
        Ok(password) => password,
        Err(error) => return fail(&error),
    };
    let mut config = Config::for_demo(&folder.0, Listen::Tcp(address));
    config.admin_password = Some(password.clone());
    let user = config.admin_username.clone();
    serve::run_demo(config, socket, args.delay, async move |started| {
        print_welcome(started, &user, &password).await
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("must be a number of seconds from 0 to 600".to_owned()),
    }
}

/// The folder, removed when the demo ends.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

fn temporary_folder() -> std::io::Result<Temporary> {
    let name = format!("codex-image-service-demo-{}", uuid::Uuid::new_v4().simple());
    let path = std::env::temp_dir().join(name);
    private_folder(&path)?;
    Ok(Temporary(path))
}

fn private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

async fn print_welcome(
    service: serve::Started,
    user: &str,
    password: &Secret,
) -> Result<(), keys::KeysError> {
    let key = keys::new_key(&service.store, "demo").await?;
    let url = &service.url;
    writeln!(
        std::io::stdout(),
        "The demo listens at {url} and draws by itself: no Codex, no login, no model.\n\n\
         Key:  {key}\n\n\
         Try:  curl -s {url}/v1/images/generate -H 'Authorization: Bearer {key}' \
         -H 'Content-Type: application/json' -d '{{\"prompt\":\"a red kite over a green hill\"}}'\n\n\
         The answer names a URL under {url}/generated/; open it in a browser.\n\n\
         Pages:  {url}/admin  user name {user}, password {password}\n\nCtrl-C ends the demo.",
        key = key.text,
        password = password.expose(),
    )?;
    Ok(())
}
