//! How a child ended.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions};

pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = number(pid).ok_or(Errno::SRCH)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Collects the child behind a pidfd, and no other, if it has ended: its exit status, or minus the signal that ended it.
pub(crate) fn reap(pidfd: BorrowedFd<'_>, pid: i32) -> io::Result<Option<i32>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = match rustix::process::waitid(WaitId::PidFd(pidfd), options) {
        Ok(status) => status.map(|status| (status.exit_status(), status.terminating_signal())),
        Err(Errno::CHILD) => return Err(Errno::CHILD.into()),
        // Linux 5.3 has pidfds, 5.4 waits for them; and sandboxes refuse what they do not know. The number is still the
        // child's: nobody has collected it.
        Err(_) => rustix::process::waitpid(Some(number(pid).ok_or(Errno::CHILD)?), WaitOptions::NOHANG)?
            .map(|(_, status)| (status.exit_status(), status.terminating_signal())),
    };
    Ok(status.and_then(|(exited, killed)| exited.or_else(|| killed.map(|signal| -signal))))
}

fn number(pid: i32) -> Option<Pid> {
    if pid > 0 { Pid::from_raw(pid) } else { None }
}
