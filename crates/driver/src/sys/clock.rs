//! The monotonic clock, through the C library: rustix looks the kernel's shared page up itself and ends the process where
//! that is hidden, as it is under valgrind.

use std::mem::MaybeUninit;

/// Nanoseconds of `CLOCK_MONOTONIC`, which is the clock of `time.monotonic()`.
#[inline]
pub(crate) fn monotonic_nanos() -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the address of a timespec, which the call fills; it cannot fail, because every Linux has this clock.
    let now = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr());
        now.assume_init()
    };
    // The clock starts near boot and is never negative.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
