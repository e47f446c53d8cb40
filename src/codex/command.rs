//! The command lines and the environment of Codex: no tool but the image tool, no program of
//! the login's own settings, and an environment of which every name is listed here.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::Path,
    process::Command,
};

use rustix::fs::OFlags;

use super::{Failure, FailureCode, carry, locate::Program, skills, versions::Version};
use crate::config::Config;

/// What Codex inherits from the service when the service has it, be it in its environment or in
/// `.env`; nothing else. Above all no API key: with one Codex has no image tool.
const INHERITED: [&str; 17] = [
    "CODEX_REFRESH_TOKEN_URL_OVERRIDE",
    "CODEX_REVOKE_TOKEN_URL_OVERRIDE",
    "CODEX_CA_CERTIFICATE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "TZ",
    "LANG",
    "HOME",
    "PATH",
];

/// Each of these takes away a tool, a request or a process that drawing does not need. By
/// `-c features.X`, for `--disable X` ends older versions that do not know X.
const SETTINGS: [&str; 28] = [
    // A read-only sandbox still reads: with a shell the model could see auth.json and say it.
    "features.shell_tool=false",
    "features.unified_exec=false",
    "features.apps=false",
    "features.plugins=false",
    "features.remote_plugin=false",
    "features.view_image=false",
    "features.goals=false",
    // Also those of hooks.json in the home, which is not part of the configuration.
    "features.hooks=false",
    "features.tool_suggest=false",
    "features.skill_search=false",
    "features.shell_snapshot=false",
    // Without this a run with no network retries for ever.
    "features.unbounded_connection_retries=false",
    "features.multi_agent=false",
    "web_search=\"disabled\"",
    // A sub-agent would save its picture under a thread of its own.
    "agents.enabled=false",
    "notify=[]",
    "skills.bundled.enabled=false",
    "skills.include_instructions=false",
    "orchestrator.skills.enabled=false",
    // No AGENTS.md and no project settings from the folders above the working directory.
    "project_doc_max_bytes=0",
    "project_root_markers=[]",
    // Texts about a sandbox and a folder that the model has no tool for.
    "include_permissions_instructions=false",
    "include_environment_context=false",
    "include_collaboration_mode_instructions=false",
    "check_for_update_on_startup=false",
    "history.persistence=\"none\"",
    // The login is the file that was looked at, not what a keyring may hold.
    "cli_auth_credentials_store=\"file\"",
    "hide_agent_reasoning=true",
];

/// What one run is about.
pub(super) struct Run<'a> {
    pub(super) program: &'a Program,
    /// Its version, as far as it says one.
    pub(super) version: Option<Version>,
    /// The login's `CODEX_HOME`.
    pub(super) home: &'a Path,
    pub(super) model: Option<&'a str>,
    /// See [`inherited`].
    pub(super) environment: &'a [(&'static str, OsString)],
    pub(super) cwd: &'a Path,
    pub(super) references: &'a [std::path::PathBuf],
}

/// The variables that every run inherits; of none the value is empty.
pub(super) fn inherited(config: &Config) -> Vec<(&'static str, OsString)> {
    let found = INHERITED.iter().filter_map(|name| Some((*name, config.variable(name)?)));
    let filled = found.filter(|(_, value)| !value.is_empty());
    filled.map(|(name, value)| (name, value.to_owned())).collect()
}

/// The value of one of them.
pub(super) fn value<'a>(
    environment: &'a [(&'static str, OsString)],
    name: &str,
) -> Option<&'a OsStr> {
    environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_os_str())
}

/// The command, ready to be started; the prompt is read from its standard input.
pub(super) fn command(run: &Run<'_>) -> Result<Command, Failure> {
    let mut command = Command::new(&run.program.path);
    command.current_dir(run.cwd).arg("exec");
    // First, with options behind them: `-i` takes every bare word that follows.
    for reference in run.references {
        command.arg("-i").arg(checked(reference)?);
    }
    command.args(["--json", "--skip-git-repo-check", "--color", "never", "--ephemeral"]);
    command.args(["--ignore-user-config", "--ignore-rules", "-s", "read-only", "-C"]).arg(run.cwd);
    carry::warn_of_texts(run.home);
    settings(&mut command, run.version, run.home, run.model);
    let user = value(run.environment, "HOME").map(Path::new);
    if let Some(setting) = skills::left_out(run.home, user) {
        command.arg("-c").arg(setting);
    }
    if let Some(model) = run.model {
        command.args(["-m", model]);
    }
    command.arg("-");
    environment(&mut command, run.program, run.home, run.environment);
    Ok(command)
}

/// What an app-server is about.
pub(super) struct Serve<'a> {
    pub(super) program: &'a Program,
    /// Its version, as far as it says one.
    pub(super) version: Option<Version>,
    /// The login's `CODEX_HOME`.
    pub(super) home: &'a Path,
    /// The one that it is given, see [`super::shadow`].
    pub(super) shadow: &'a Path,
    pub(super) model: Option<&'a str>,
    /// See [`inherited`].
    pub(super) environment: &'a [(&'static str, OsString)],
}

/// The command of an app-server, ready to be started; what it says and hears are lines of JSON.
pub(super) fn app_server(serve: &Serve<'_>) -> Command {
    let mut command = Command::new(&serve.program.path);
    command.current_dir(serve.shadow).arg("app-server");
    settings(&mut command, serve.version, serve.home, serve.model);
    // Else it keeps 6 to 9 MB of each thread.
    command.args(["-c", "thread_unload_delay_secs=0"]);
    if let Some(model) = serve.model {
        command.arg("-c").arg(format!("model={}", toml::Value::from(model)));
    }
    let user = value(serve.environment, "HOME").map(Path::new);
    if let Some(setting) = skills::left_out(serve.shadow, user) {
        command.arg("-c").arg(setting);
    }
    environment(&mut command, serve.program, serve.shadow, serve.environment);
    // The reason of a failed picture is said with its thread only in this log, of which every line
    // is read and none is kept.
    command.env("RUST_LOG", "error,codex_otel.log_only=info").env("LOG_FORMAT", "json");
    command
}

/// What every Codex is told, but for what an old one would refuse.
fn settings(command: &mut Command, version: Option<Version>, home: &Path, model: Option<&str>) {
    let knows = |setting: &&str| version.is_none_or(|version| version.knows(setting));
    for setting in SETTINGS.into_iter().filter(knows) {
        command.args(["-c", setting]);
    }
    for setting in carry::overrides(home, model.is_some()) {
        command.arg("-c").arg(setting);
    }
}

fn environment(
    command: &mut Command,
    program: &Program,
    home: &Path,
    environment: &[(&'static str, OsString)],
) {
    command.env_clear();
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.env("CODEX_HOME", home);
    if value(environment, "HOME").is_none() {
        command.env("HOME", home);
    }
    // All that Codex starts by name is `lsb_release`, twice, for its user agent: 30 ms of each
    // picture. What it needs lies beside it. A launcher, though, may need the whole PATH.
    if program.native
        && let Some(dir) = program.path.parent()
    {
        command.env("PATH", dir);
    }
}

/// Codex splits at commas, passes relative paths on to where they mean nothing, and draws without a
/// reference that it cannot find, as if there had been none.
pub(super) fn checked(reference: &Path) -> Result<OsString, Failure> {
    let refused = |message| Failure::new(FailureCode::CodexError, message);
    if !reference.is_absolute() || reference.as_os_str().as_bytes().contains(&b',') {
        tracing::error!(?reference, "the path of a reference must be absolute and have no comma");
        return Err(refused("A reference image is stored where Codex cannot read it."));
    }
    // Not blocking: opening a pipe would wait for its writer.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let opened = File::options().read(true).custom_flags(flags).open(reference);
    match opened.and_then(|file| file.metadata()) {
        Ok(meta) if meta.is_file() && meta.len() > 0 => return Ok(reference.into()),
        Ok(_) => tracing::error!(?reference, "a reference is no file with content"),
        Err(error) => tracing::error!(?reference, %error, "a reference cannot be read"),
    }
    Err(refused("A stored reference image is missing or cannot be read."))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const ENVIRONMENT: [(&str, &str); 3] = [("HOME", "/h"), ("PATH", "/a:/b"), ("TZ", "UTC")];

    fn built(references: &[PathBuf], native: bool) -> Result<Command, Failure> {
        let program = Program { path: "/opt/codex/bin/codex".into(), native };
        command(&Run {
            program: &program,
            version: None,
            home: Path::new("/nonexistent/home"),
            model: Some("gpt-5.5"),
            environment: &ENVIRONMENT.map(|(name, value)| (name, value.into())),
            cwd: Path::new("/srv/cwd"),
            references,
        })
    }

    #[test]
    fn references_come_first_and_the_prompt_from_standard_input() {
        let dir = tempfile::tempdir().unwrap();
        let references = ["1.png", "2.png"].map(|name| dir.path().join(name));
        for reference in &references {
            std::fs::write(reference, "x").unwrap();
        }
        let command = built(&references, true).unwrap();
        let args: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
        let [one, two] = references.each_ref().map(|path| path.to_str().unwrap());
        assert_eq!(args[..6], ["exec", "-i", one, "-i", two, "--json"]);
        assert_eq!(args[args.len() - 3..], ["-m", "gpt-5.5", "-"]);
        assert!(!args.iter().any(|arg| arg.contains("dangerously")));
    }

    #[test]
    fn a_reference_that_codex_would_misread_or_leave_out_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["good.png", "a,b.png"] {
            std::fs::write(path(name), "x").unwrap();
        }
        std::fs::write(path("empty.png"), "").unwrap();
        std::fs::create_dir(path("folder.png")).unwrap();
        std::os::unix::fs::symlink(path("good.png"), path("link.png")).unwrap();
        assert!(built(&[path("good.png")], true).is_ok());
        for name in ["a,b.png", "missing.png", "empty.png", "folder.png", "link.png"] {
            let refused = built(&[path("good.png"), path(name)], true);
            assert_eq!(refused.unwrap_err().code, FailureCode::CodexError, "{name}");
        }
        assert!(built(&["r.png".into()], true).is_err());
    }

    #[test]
    fn the_environment_is_what_is_inherited_and_no_more() {
        let of = |native| -> Vec<(String, String)> {
            let command = built(&[], native).unwrap();
            let text = |text: &OsStr| text.to_str().unwrap().to_owned();
            command.get_envs().map(|(name, value)| (text(name), text(value.unwrap()))).collect()
        };
        let expected = |path: &str| {
            [("CODEX_HOME", "/nonexistent/home"), ("HOME", "/h"), ("PATH", path), ("TZ", "UTC")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        assert_eq!(of(true), expected("/opt/codex/bin"));
        assert_eq!(of(false), expected("/a:/b"));
    }
}
