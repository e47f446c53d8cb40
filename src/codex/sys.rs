//! The only unsafe code: what has no safe interface, kept small and without any policy.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    io::{Errno, FdFlags},
    process::{Pid, Resource, Rlimit, Signal},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::Command,
};

use crate::limits;

/// Has the child, between fork and exec, ask for a signal when the thread that starts it dies, bound what it
/// may write, take back the limit of open files that the service raised for itself, and keep
/// `inherited` open across exec (in the child alone).
pub(super) fn before_exec<F>(
    command: &mut Command,
    inherited: &Arc<F>,
    largest_file: u64,
    death_signal: Option<Signal>,
) where
    F: AsRawFd + Send + Sync + 'static,
{
    let service: Pid = rustix::process::getpid();
    // Held by the closure: open for as long as the command can be started.
    let inherited = Arc::clone(inherited);
    let descriptors = limits::original_descriptor_limit();
    let hook = move || {
        rustix::process::set_parent_process_death_signal(death_signal)?;
        // The service may have died before the signal was asked for.
        if rustix::process::getppid() != Some(service) {
            return Err(Errno::SRCH.into());
        }
        let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
        // A core of Codex would hold the login's tokens.
        rustix::process::setrlimit(Resource::Core, limit(0))?;
        rustix::process::setrlimit(Resource::Fsize, limit(largest_file))?;
        if let Some(descriptors) = descriptors {
            rustix::process::setrlimit(Resource::Nofile, descriptors)?;
        }
        // SAFETY: the closure holds the owner, and the descriptors of the child are copies.
        let inherited = unsafe { BorrowedFd::borrow_raw(inherited.as_raw_fd()) };
        rustix::io::fcntl_setfd(inherited, FdFlags::empty())?;
        Ok(())
    };
    // SAFETY: between fork and exec of a process with threads only async-signal-safe calls are
    // allowed. These are bare system calls (rustix calls the kernel itself), nothing is allocated
    // and no lock is taken.
    unsafe {
        command.pre_exec(hook);
    }
}

/// Lets the runtime tell when a descriptor becomes readable.
pub(super) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives out one descriptor and keeps it open until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
