//! The whole way: the service, the real Codex, and the backend that it talks to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use codex_image_service::state_dir::MARKER;

use super::{Backend, HomeOptions, Service, Setup, wait_for};

/// A service whose Codex is the real one, and the backend that it talks to.
pub struct Lab {
    /// Ends first.
    pub service: Service,
    /// In this process.
    pub backend: Backend,
}

impl Lab {
    /// With the default settings and a login that works.
    pub fn new() -> Self {
        Self::with(|setup| setup)
    }

    /// With other settings.
    pub fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        Self::with_login(&HomeOptions::default(), change)
    }

    /// With a login of another kind.
    pub fn with_login(login: &HomeOptions, change: impl FnOnce(Setup) -> Setup) -> Self {
        let backend = Backend::start();
        let service = change(Setup::real_with(&backend, login)).start();
        Self { service, backend }
    }

    /// With app-servers, one for each login.
    pub fn served(logins: &[HomeOptions], change: impl FnOnce(Setup) -> Setup) -> Self {
        let backend = Backend::start();
        let service = change(Setup::served(&backend, logins)).start();
        Self { service, backend }
    }

    /// The folders in which app-servers run.
    pub fn shadows(&self) -> Vec<PathBuf> {
        let base = self.service.state_dir().join("codex");
        names(&base).into_iter().map(|name| base.join(name)).collect()
    }

    /// Nothing of finished jobs stays beside their pictures and rows: no work folder, no copy of
    /// Codex's own, no process.
    pub fn assert_tidy(&self) {
        let kept = self.service.codex_home().join("generated_images");
        let work = self.service.state_dir().join("work");
        // The caller has the answer before the sweeping begins.
        for folder in [kept, work] {
            wait_for(&format!("{} to be empty", folder.display()), || {
                names(&folder).is_empty().then_some(())
            });
        }
        self.service.wait_for_no_orphans();
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

/// What lies in a folder beside its marker, sorted; nothing when there is none.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != MARKER).collect();
    names.sort();
    names
}
