//! Sleeping without the GIL.

use std::io;
use std::time::Duration;

use driver::{Driver, Events};
use pyo3::Python;

/// `driver.wait` while other threads may run Python.
pub(crate) fn wait(
    py: Python<'_>,
    driver: &Driver,
    events: &mut Events,
    sleep: Option<Duration>,
) -> io::Result<()> {
    struct Alone<'a>(&'a mut Events);
    // SAFETY: the closure runs on this very thread; PyO3 asks for `Send` only to keep Python references out, and events
    // hold numbers (the pointer variant of epoll's data is never used).
    unsafe impl Send for Alone<'_> {}
    let alone = Alone(events);
    py.detach(move || {
        let alone = alone;
        driver.wait(alone.0, sleep)
    })
}
