//! Seeds: a login that is handed to the service as the systemd credential `auth-<label>` is copied
//! into the login's home, once, and again only when it is another and newer. This is the one place
//! where a login file is copied: its refresh token works only once, so from then on the copy is the
//! login, and the seed must not be used anywhere else.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use sha2::{Digest as _, Sha256};

use super::{lease::lock_home, make_home};
use crate::{
    codex::{auth, shadow},
    config::LoginHome,
};

const AUTH: &str = "auth.json";

/// What a credential's name begins with; the login's label is the rest.
const CREDENTIAL: &str = "auth-";

/// The file in a home that holds the fingerprint of the seed that was used last.
const USED: &str = ".codex-image-service.seed";

/// What is being written there.
const NEXT: &str = ".codex-image-service.seed.next";

/// A login that may be copied into a home.
struct Seed {
    content: Vec<u8>,
    /// The SHA-256 of its content.
    fingerprint: String,
    last_refresh: Option<jiff::Timestamp>,
}

/// What is to become of a home and its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// There is no login.
    First,
    /// There is none any more, and this seed was used before: somebody signed out, and its refresh
    /// token may be spent.
    SignedOut,
    /// The seed is another than the last one, and newer than the home's login, or that is none.
    Newer,
    /// It is the one that was used last.
    Used,
    /// It is another, and not newer than the home's login.
    NotNewer,
    /// It is another, and one of the two does not say when it was renewed.
    Undated,
    /// What is there is no file of the home's own.
    Elsewhere,
}

impl Plan {
    fn copies(self) -> bool {
        matches!(self, Self::First | Self::Newer)
    }
}

/// Seeds every login for which there is a credential, and says so in the log.
pub(in crate::codex) fn seed_all(homes: &[LoginHome], shadows: &Path, credentials: &Path) {
    for LoginHome { label, path } in homes {
        if let Some(why) = unnameable(label) {
            tracing::info!(login = label, "{why}");
            continue;
        }
        match read_seed(credentials, label) {
            Ok(None) => {}
            Ok(Some(seed)) => {
                if let Err(error) = seed_one(label, path, shadows, &seed) {
                    let home = path.display();
                    tracing::warn!(login = label, %home, %error, "the login cannot be seeded");
                }
            }
            Err(why) => tracing::warn!(login = label, "{why}"),
        }
    }
    for strange in strangers(homes, credentials) {
        tracing::warn!("{strange}");
    }
}

/// What will be wrong with the logins once they are seeded, in sentences; nothing is changed.
pub(in crate::codex) fn seed_outlook(
    homes: &[LoginHome],
    credentials: Option<&Path>,
) -> Vec<String> {
    let Some(credentials) = credentials else {
        return homes.iter().filter_map(auth::trouble).collect();
    };
    let mut said = Vec::new();
    for home in homes {
        said.extend(unnameable(&home.label));
        match read_seed(credentials, &home.label) {
            Ok(Some(seed)) if plan(&home.path, &seed).is_ok_and(Plan::copies) => continue,
            Ok(_) => {}
            Err(why) => said.push(why),
        }
        said.extend(auth::trouble(home));
    }
    said.extend(strangers(homes, credentials));
    said
}

/// Why there can be no credential for this login; systemd's rule.
fn unnameable(label: &str) -> Option<String> {
    let fits = CREDENTIAL.len() + label.len() <= 255
        && label.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b":/".contains(&byte));
    (!fits).then(|| {
        format!(
            "login {label}: a credential cannot be called {CREDENTIAL}{label}, so it cannot be \
             seeded; give it a label of plain letters and digits in CODEX_HOMES (LABEL=PATH)"
        )
    })
}

/// Credentials that are seeds by their names, and for none of these logins.
fn strangers(homes: &[LoginHome], credentials: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(credentials).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(label) = name.strip_prefix(CREDENTIAL) else { continue };
        if homes.iter().all(|home| home.label != label) {
            let known: Vec<_> = homes.iter().map(|home| home.label.as_str()).collect();
            let known = known.join(", ");
            found.push(format!(
                "the credential {name} is for no login of CODEX_HOMES, which has: {known}"
            ));
        }
    }
    found.sort();
    found
}

/// The seed of a login; None when it has none, or why it is no login.
fn read_seed(credentials: &Path, label: &str) -> Result<Option<Seed>, String> {
    let name = format!("{CREDENTIAL}{label}");
    let refused = |why: &str| format!("login {label}: the credential {name} cannot be used: {why}");
    if unnameable(label).is_some() {
        return Ok(None);
    }
    let mut content = Vec::new();
    match File::open(credentials.join(&name)) {
        Ok(file) => file.take(auth::LARGEST + 1).read_to_end(&mut content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    }
    .map_err(|error| refused(&error.to_string()))?;
    if content.len() as u64 > auth::LARGEST {
        return Err(refused("it is too large to be an auth.json"));
    }
    let said = auth::check_content(&content).map_err(|failure| refused(&failure.message))?;
    let text = |pointer: &str| said.pointer(pointer).and_then(serde_json::Value::as_str);
    if text("/tokens/refresh_token").is_none_or(str::is_empty) {
        return Err(refused("it holds no refresh token, so it would soon be over"));
    }
    let last_refresh = last_refresh(&said);
    let fingerprint = fingerprint(&content);
    Ok(Some(Seed { content, fingerprint, last_refresh }))
}

fn last_refresh(auth: &serde_json::Value) -> Option<jiff::Timestamp> {
    auth.get("last_refresh")?.as_str()?.parse().ok()
}

fn fingerprint(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn plan(home: &Path, seed: &Seed) -> io::Result<Plan> {
    let used = is_used(home, seed)?;
    match fs::symlink_metadata(home.join(AUTH)) {
        Ok(found) if !found.is_file() => return Ok(Plan::Elsewhere),
        Err(error) if !is_missing(&error) => return Err(error),
        _ => {}
    }
    let Some(own) = auth::read(home)? else {
        return Ok(if used { Plan::SignedOut } else { Plan::First });
    };
    // Also when a kill came before that was written down.
    if used || own == seed.content {
        return Ok(Plan::Used);
    }
    let Ok(own) = auth::check_content(&own) else { return Ok(Plan::Newer) };
    Ok(match (seed.last_refresh, last_refresh(&own)) {
        (Some(seed), Some(own)) if seed > own => Plan::Newer,
        (Some(_), Some(_)) => Plan::NotNewer,
        _ => Plan::Undated,
    })
}

/// Whether it is the one that was used last.
fn is_used(home: &Path, seed: &Seed) -> io::Result<bool> {
    match fs::read(home.join(USED)) {
        Err(error) if !is_missing(&error) => Err(error),
        read => Ok(read.is_ok_and(|used| used.trim_ascii() == seed.fingerprint.as_bytes())),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn seed_one(label: &str, home: &Path, shadows: &Path, seed: &Seed) -> io::Result<()> {
    // As the engine does: Codex has another working directory.
    let home = &std::path::absolute(home)?;
    make_home(home)?;
    let Some(_lock) = lock_home(home)? else {
        tracing::warn!(
            login = label,
            "another process uses the login; whether its seed is newer is seen at the next start"
        );
        return Ok(());
    };
    // Should a Codex have written its tokens beside their place, they count.
    shadow::settle(shadows, home)?;
    remove_if_there(&home.join(NEXT))?;
    let plan = plan(home, seed)?;
    if plan.copies() {
        // The login first. Killed before the second, the next start finds a login that is the seed
        // or has been renewed since: both stay. The other way round a newer seed would be lost.
        put(home, AUTH, &seed.content)?;
    }
    if (plan.copies() || plan == Plan::Used) && !is_used(home, seed)? {
        put(home, USED, format!("{}\n", seed.fingerprint).as_bytes())?;
    }
    tell(label, plan, seed);
    Ok(())
}

fn tell(login: &str, plan: Plan, seed: &Seed) {
    let seed = &seed.fingerprint[..12];
    match plan {
        Plan::First => tracing::info!(
            login,
            seed,
            "the login is seeded from its credential, which must not be used anywhere else: its \
             refresh token works only once"
        ),
        Plan::SignedOut => tracing::warn!(
            login,
            seed,
            "the login has no auth.json any more, and its seed was used already, so it is not taken \
             again: its refresh token works only once. Sign in with `codex-image-service logins add \
             {login}`, or give another credential"
        ),
        Plan::Newer => tracing::info!(
            login,
            seed,
            "the login is seeded anew: its credential is another, and the login was older, or none; it \
             must not be used anywhere else"
        ),
        Plan::Used => tracing::info!(login, seed, "the login is kept: its seed is in use already"),
        Plan::NotNewer => tracing::info!(
            login,
            seed,
            "the login is kept: its seed is another, but not newer than the login"
        ),
        Plan::Undated => tracing::warn!(
            login,
            seed,
            "the login is kept: its seed is another, but without a last_refresh in both none can be \
             told to be newer"
        ),
        Plan::Elsewhere => tracing::warn!(
            login,
            seed,
            "the login is kept: its auth.json is a link or no file, which no seed replaces"
        ),
    }
}

/// Puts a file into a home, for its user alone, in one step and on the disk.
fn put(home: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let next = home.join(NEXT);
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&next, home.join(name))?;
        File::open(home)?.sync_all()
    };
    let written = written();
    if written.is_err() {
        let _ = fs::remove_file(&next);
    }
    written
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_missing(&error) => Err(error),
        _ => Ok(()),
    }
}
