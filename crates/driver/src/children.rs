//! The ends of child processes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::process;

/// A descriptor that is readable when the child has ended. Kernels before 5.3 and some sandboxes refuse it.
pub fn open_child(pid: i32) -> io::Result<OwnedFd> {
    process::open(pid)
}

/// Collects the child behind a pidfd if it has ended: its exit status, or minus the signal that ended it. `None`: it runs. An error of
/// kind ECHILD: somebody else has collected it. No other child is touched.
pub fn reap_child(pidfd: impl AsFd, pid: i32) -> io::Result<Option<i32>> {
    process::reap(pidfd.as_fd(), pid)
}
