//! The backends, and **the contract** that all of them keep. Backends differ in speed, not in what a caller can rely on;
//! every case of `tests/contract` runs on each.
//!
//! Readiness
//! 1. Level-triggered: as long as a watched descriptor is ready, every `wait` reports it. A report may be spurious (the following
//!    `recv` says `WouldBlock`); a missing one is a bug. With [`Interest::CHANGES`](crate::Interest::CHANGES) less is owed: a
//!    report after `watch` or `rewatch` if the descriptor is ready then, and one after each time that a system call said
//!    `WouldBlock` and the direction became ready since. More reports are allowed. Where `Driver::short_read_empties`, a `recv`
//!    that did not fill its buffer counts as one that said so.
//! 2. One registration a descriptor. `watch` on a number that is registered replaces the registration (the number was closed
//!    and reused), `rewatch` on one that is not registers it, `unwatch` on one that is not does nothing.
//! 3. An event carries the token of the *current* registration. An event of a registration that was replaced or removed is never
//!    delivered, not even when the kernel had queued it already and not by a `wait` on another thread that returns later.
//! 4. Only the directions asked for are reported. An error or a hang-up counts as readiness in every direction asked for: the next
//!    system call of either kind will tell what happened. `Interest::NONE` keeps the registration and reports nothing.
//! 5. A descriptor that cannot be watched (a regular file) is refused by `watch` with `EPERM`, an invalid number with `EBADF`.
//! 6. More ready descriptors than `Events` has room for are reported by the following waits; none is starved for ever.
//!
//! Waiting
//! 7. `wait` returns when something is ready, when it was woken, when the timeout is over, or with `Interrupted` when a signal
//!    handler ran. The timeout is never cut short by rounding: it is counted in nanoseconds, or in milliseconds rounded up. A return with
//!    nothing before its end is allowed but rare (an echo of an old wake-up or of a replaced registration, or a timeout beyond 24 days):
//!    callers compare deadlines with `now`, never with the fact that `wait` returned.
//! 8. A wake-up that came before or during a wait ends it and is reported as `woken` by exactly one `wait` or
//!    `take_wake`. An error return of `wait` reports nothing and loses nothing.
//! 9. One thread waits at a time; a second one gets `ResourceBusy`. Everything else may be called from any thread.
//!
//! Input and output
//! 10. No call blocks on a non-blocking descriptor and none on a socket raises SIGPIPE. Short reads and writes are normal. `recv` into a
//!     buffer that is not empty returns 0 only at the end of the stream.
//! 11. What `accept` returns is non-blocking and close-on-exec. When it fails for want of descriptors or memory, the connection
//!     stays in the backlog.
//!
//! Fork
//! 12. In the child of a fork, a driver made by the parent refuses `watch`, `rewatch` and `wait` with an error, `unwatch` and `wake` do
//!     nothing, `shut_down` closes the child's copies, and the parent notices none of it.

pub(crate) mod epoll;
pub(crate) mod sim;
