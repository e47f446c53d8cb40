//! What is shown of the logins: how each of them stands, and what about them may go wrong later.
//! Files are read and locks are tried; nothing is changed.

use super::{
    Logins,
    lease::{A_FORK, Held, LOCK_FILE, LOOKS, lock},
    now,
};
use crate::{
    codex::{auth, status::LoginStatus},
    config::LoginHome,
};

impl Logins {
    /// How all of them stand; reads their files and tries their locks.
    pub(in crate::codex) fn statuses(&self) -> Vec<LoginStatus> {
        let status = |(index, home): (usize, &LoginHome)| {
            let (claims, problem) = (auth::claims(&home.path), auth::check(&home.path).err());
            let path = home.path.join(LOCK_FILE);
            let busy_elsewhere = path.exists()
                && (0..LOOKS).all(|look| {
                    if look > 0 {
                        std::thread::sleep(A_FORK);
                    }
                    // As whoever takes a login: neither takes the other for a stranger.
                    let slots = self.slots();
                    slots.each[index].held == Held::Free && matches!(lock(path.clone()), Ok(None))
                });
            let slots = self.slots();
            let fitness = &slots.fitness[index];
            LoginStatus {
                label: home.label.clone(),
                problem,
                account: claims.account,
                plan: claims.plan,
                expires_at: claims.expires_at,
                busy_elsewhere,
                rest: fitness.rest(now()).cloned(),
                quota: fitness.quota().to_vec(),
            }
        };
        self.homes.iter().enumerate().map(status).collect()
    }

    /// What about the logins may go wrong later, in sentences for the log.
    pub(in crate::codex) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut users: Vec<(String, &str)> = Vec::new();
        for home in &self.homes {
            warnings.extend(auth::trouble(home));
            let LoginHome { label, path } = home;
            warnings.extend(
                auth::warnings(path).into_iter().map(|text| format!("login {label}: {text}")),
            );
            let Some(user) = auth::claims(path).user else { continue };
            match users.iter().find(|(known, _)| *known == user) {
                Some((_, other)) => warnings.push(format!(
                    "login {label}: the same ChatGPT user as login {other}; they share one quota \
                     and one session"
                )),
                None => users.push((user, label)),
            }
        }
        warnings
    }
}
