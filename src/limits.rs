//! The limits of this process. It may have as many files open as the system allows; what it starts
//! gets the limit back that the process was started with.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit before it was raised.
static ORIGINAL: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the soft limit of open files to the hard one and says what holds then. A service manager
/// leaves it at 1024, of which each connection, body and picture takes one, and a service that has
/// none left can neither accept nor look at what was paid for. To be called once, at the start.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    ORIGINAL.get_or_init(|| limit.current);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised,
        // It is the process's own right; should a filter forbid it, the old limit holds.
        Err(_) => limit,
    };
    now.current.unwrap_or(u64::MAX)
}

/// The limit of open files for a child, when ours was raised: programs that use `select`, or that
/// close every descriptor there could be, count on the usual 1024.
pub(crate) fn original_descriptor_limit() -> Option<Rlimit> {
    let original = *ORIGINAL.get()?;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    // Somebody may have lowered the hard limit meanwhile, and more than that is an error.
    Some(Rlimit { current: Some(original.unwrap_or(u64::MAX).min(most)), ..limit })
}
