//! Signals and threads.

use std::mem::MaybeUninit;
use std::ptr;

/// From now on, signals sent to the process reach other threads than this one: the one that sleeps in `wait` has to be interrupted,
/// not a helper. Signals that mean a fault of this very thread stay open, for `faulthandler`.
pub(crate) fn leave_signals_to_others() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` initialises the set, the others then change it or read it; the mask is that of the calling thread only.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT] {
            libc::sigdelset(set.as_mut_ptr(), fault);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
    }
}
