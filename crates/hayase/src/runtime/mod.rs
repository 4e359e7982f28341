//! What transports need of a loop: the driver, who is registered with it, the scheduler, the shared receive buffer and
//! the list of transports with corked bytes. Knows no protocol and no transport.
//!
//! One `Runtime` is a field of each loop object and is reached through a [`RuntimeRef`].
//!
//! Must stay true
//! - No cell of a runtime is open while Python code runs or a reference is dropped.
//! - A descriptor is registered with the driver exactly while its slot exists and wants something; see `slots.rs`.

pub(crate) mod coroutine;
pub(crate) mod lookups;
pub(crate) mod operation;
pub(crate) mod slots;
pub(crate) mod suspendable;

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Once;

use driver::{BlockingPool, Driver, Interest, Time, Token};
use pyo3::Python;

use crate::raw::cell::{GilCell, GilValue};
use crate::raw::field_ref::FieldRef;
use crate::raw::instance::Visitor;
use crate::raw::members::Members;
use crate::raw::obj::Obj;
use crate::tasks::scheduler::Scheduler;
use lookups::Lookups;
use slots::{SlotKind, Slots};

/// A loop object (strong) and the runtime in it.
pub(crate) type RuntimeRef = FieldRef<Runtime>;

/// One receive buffer for all sockets of a loop: it stays in the cache. What fills it is read again directly into the
/// final object.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

/// Native receivers get all of the buffer (a TLS record of 64 KiB of data is a little longer); its end is touched only
/// by who has so much. asyncio's size of one read.
pub(crate) const NATIVE_SCRATCH_BYTES: usize = 256 * 1024;

pub(crate) struct Runtime {
    pub(crate) scheduler: Scheduler,
    pub(crate) driver: Driver,
    pub(crate) slots: GilCell<Slots>,
    pub(crate) scratch: GilCell<Box<[u8]>>,
    /// Transports with corked bytes, in the order in which they wrote.
    pub(crate) corked: GilCell<VecDeque<Obj>>,
    /// When transports were flushed last within a turn, or the turns since the last poll began.
    pub(crate) flushed_at: GilValue<Time>,
    /// Transports and servers whose descriptors are open, watched or not; they do not live through this.
    pub(crate) open: Members,
    /// Threads for lookups of names; made when the first one is asked for.
    pub(crate) blocking: GilCell<Option<BlockingPool>>,
    pub(crate) lookups: Lookups,
}

impl Runtime {
    pub(crate) fn new(driver: Driver) -> Runtime {
        keep_large_blocks();
        Runtime {
            scheduler: Scheduler::new(driver.waker(), driver.clock()),
            driver,
            slots: GilCell::new(Slots::new()),
            scratch: GilCell::new(vec![0; NATIVE_SCRATCH_BYTES].into_boxed_slice()),
            corked: GilCell::new(VecDeque::new()),
            flushed_at: GilValue::new(Time::from_nanos(0)),
            open: Members::new(),
            blocking: GilCell::new(None),
            lookups: Lookups::new(),
        }
    }

    /// Begins to watch `fd` for `object`. The caller made sure that nobody else who is alive uses it
    /// ([`Slots::token_of`]); whoever has a slot for that number loses it.
    pub(crate) fn watch(
        &self,
        py: Python<'_>,
        fd: RawFd,
        interest: Interest,
        kind: SlotKind,
        object: Obj,
    ) -> io::Result<Token> {
        let (token, before) = self.slots.with(py, |slots| {
            let before = slots.registered(fd).and_then(|before| slots.remove(before));
            (slots.insert(kind, object, fd, interest), before)
        });
        drop(before);
        match self.driver.watch(fd, interest, token) {
            Ok(()) => Ok(token),
            Err(error) => {
                drop(self.slots.with(py, |slots| slots.remove(token)));
                Err(error)
            }
        }
    }

    /// Brings the registration behind `token` to `interest`; `register` makes one where there is none.
    pub(crate) fn want(
        &self,
        py: Python<'_>,
        token: &GilValue<Option<Token>>,
        interest: Interest,
        register: impl FnOnce() -> io::Result<Token>,
    ) -> io::Result<()> {
        match token.get() {
            None if interest.is_empty() => Ok(()),
            None => register().map(|made| token.set(Some(made))),
            Some(known) if interest.is_empty() => {
                token.set(None);
                drop(self.unwatch(py, known));
                Ok(())
            }
            Some(known) => self.rewatch(py, known, interest),
        }
    }

    /// Leaves a registration to nobody, until its owner takes it back or something comes, which ends it ([`Runtime::unwatch`]).
    pub(crate) fn park(&self, py: Python<'_>, token: Token) {
        drop(self.slots.with(py, |slots| slots.replace(token, SlotKind::Parked, Obj::none(py))));
    }

    /// Takes a parked registration back; whether it was still there: something may have come, or somebody else needed the
    /// descriptor.
    pub(crate) fn unpark(&self, py: Python<'_>, token: Token, kind: SlotKind, object: Obj) -> bool {
        self.slots.with(py, |slots| slots.replace(token, kind, object)).is_some()
    }

    /// As [`Runtime::watch`], for the owner of the descriptor. Who was before it may still have a slot for the number: a transport
    /// that is closing, whose descriptor was closed under the loop.
    pub(crate) fn watch_own(
        &self,
        py: Python<'_>,
        fd: RawFd,
        interest: Interest,
        kind: SlotKind,
        object: Obj,
    ) -> io::Result<Token> {
        if let Some(stale) = self.slots.with(py, |slots| slots.token_of(fd)) {
            drop(self.unwatch(py, stale));
        }
        self.watch(py, fd, interest, kind, object)
    }

    /// Changes what is watched; no system call if nothing changes. An empty interest is for [`Runtime::unwatch`]: the
    /// kernel reports hang-ups even to who asked for nothing.
    pub(crate) fn rewatch(&self, py: Python<'_>, token: Token, interest: Interest) -> io::Result<()> {
        debug_assert!(!interest.is_empty());
        let Some((fd, before)) = self.slots.with(py, |slots| slots.set_interest(token, interest)) else {
            return Ok(());
        };
        if before == interest {
            return Ok(());
        }
        self.tell_driver(py, fd, token, interest, before)
    }

    /// As [`Runtime::rewatch`], and tells the kernel even if nothing changes: the program may have closed the
    /// descriptor without a word, and what has its number now is not registered.
    pub(crate) fn renew(&self, py: Python<'_>, token: Token, interest: Interest) -> io::Result<()> {
        let known = self.slots.with(py, |slots| slots.set_interest(token, interest));
        match known {
            Some((fd, before)) => self.tell_driver(py, fd, token, interest, before),
            None => Ok(()),
        }
    }

    fn tell_driver(
        &self,
        py: Python<'_>,
        fd: RawFd,
        token: Token,
        interest: Interest,
        before: Interest,
    ) -> io::Result<()> {
        let result = self.driver.rewatch(fd, interest, token);
        if result.is_err() {
            self.slots.with(py, |slots| slots.set_interest(token, before));
        }
        result
    }

    /// Ends a registration; events of it that are queued already reach nobody. Returns what was registered, to be
    /// dropped when the caller is in a consistent state. Call it before the descriptor is closed.
    pub(crate) fn unwatch(&self, py: Python<'_>, token: Token) -> Option<Obj> {
        let slot = self.slots.with(py, |slots| slots.remove(token))?;
        // A descriptor that somebody else closed is gone from the kernel's list already.
        let _ = self.driver.unwatch(slot.fd);
        Some(slot.object)
    }

    /// Ends every registration, for a loop that is closed; what was registered is dropped by the caller.
    pub(crate) fn close(&self, py: Python<'_>) -> Vec<Obj> {
        // Threads without work end now; a lookup that hangs ends by itself and finds nobody.
        drop(self.blocking.with(py, Option::take));
        let slots = self.slots.with(py, Slots::drain);
        for slot in &slots {
            // As in `unwatch`.
            let _ = self.driver.unwatch(slot.fd);
        }
        let mut objects: Vec<Obj> = slots.into_iter().map(|slot| slot.object).collect();
        objects.append(&mut self.lookups.drain(py));
        objects.extend(self.corked.with(py, std::mem::take));
        objects
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        self.scheduler.visit(visitor);
        self.slots.peek(|slots| slots.visit(visitor));
        self.lookups.visit(visitor);
        self.corked.peek(|list| list.iter().for_each(|object| visitor.obj(object)));
    }
}

/// Has glibc keep freed blocks of the size of a large read for the next one. It gives blocks of 128 KiB and more back
/// to the kernel, until it has once seen one freed that was not cut before; and a large read is cut to what arrived. Mapping
/// one for each read quadruples the cost of echoing 100 KiB (93 against 23 µs). What it keeps in all is twice this block: room
/// for what a hundred connections write in a turn.
fn keep_large_blocks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(4 * NATIVE_SCRATCH_BYTES))));
}
