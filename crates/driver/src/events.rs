//! The words in which the driver and its backends speak of readiness: who ([`Token`]), which way ([`Interest`]), what ([`Event`]).
//!
//! A leaf, so that the backends need not know the driver that uses them. Only [`Events`] touches `sys`: it carries the memory that the
//! kernel writes to.

use std::fmt;
use std::ops::BitOr;

use crate::sys::epoll::RawEvents;

/// Tells the caller which of its registrations an event belongs to. Opaque to the driver; all 64 bits are the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(pub u64);

/// The directions in which a descriptor is watched.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interest(u8);

impl Interest {
    pub const NONE: Interest = Interest(0);
    pub const READABLE: Interest = Interest(1);
    pub const WRITABLE: Interest = Interest(2);
    pub const BOTH: Interest = Interest(3);
    /// Added to directions: a report when something changes is enough, what merely is still ready need not be repeated.
    pub const CHANGES: Interest = Interest(4);

    #[inline]
    pub const fn contains(self, other: Interest) -> bool {
        self.0 & other.0 == other.0
    }

    #[inline]
    pub const fn union(self, other: Interest) -> Interest {
        Interest(self.0 | other.0)
    }

    #[inline]
    pub const fn without(self, other: Interest) -> Interest {
        Interest(self.0 & !other.0)
    }

    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Interest {
    type Output = Interest;

    fn bitor(self, other: Interest) -> Interest {
        self.union(other)
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.without(Interest::CHANGES) {
            Interest::NONE => "NONE",
            Interest::READABLE => "READABLE",
            Interest::WRITABLE => "WRITABLE",
            _ => "BOTH",
        })?;
        if self.contains(Interest::CHANGES) { f.write_str(" | CHANGES") } else { Ok(()) }
    }
}

/// A watched descriptor is ready, in at least one direction that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    pub token: Token,
    pub readable: bool,
    pub writable: bool,
}

/// What one wait found. Made once and reused: it allocates nothing afterwards.
pub struct Events {
    pub(crate) list: Vec<Event>,
    /// Where the kernel writes; empty between waits.
    pub(crate) raw: RawEvents,
    pub(crate) woken: bool,
}

impl Events {
    /// At most `capacity` events (at least one) are taken from the kernel at a time.
    pub fn with_capacity(capacity: usize) -> Events {
        let capacity = capacity.max(1);
        Events { list: Vec::with_capacity(capacity), raw: RawEvents::with_capacity(capacity), woken: false }
    }

    #[inline]
    pub fn iter(&self) -> std::slice::Iter<'_, Event> {
        self.list.iter()
    }

    #[inline]
    pub fn get(&self, index: usize) -> Option<Event> {
        self.list.get(index).copied()
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether somebody called [`Waker::wake`](crate::Waker::wake) since this was last reported. What was put into an inbox before that call is visible now.
    #[inline]
    pub fn woken(&self) -> bool {
        self.woken
    }

    pub fn clear(&mut self) {
        self.list.clear();
        self.raw.clear();
        self.woken = false;
    }
}

impl<'a> IntoIterator for &'a Events {
    type Item = &'a Event;
    type IntoIter = std::slice::Iter<'a, Event>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("list", &self.list).field("woken", &self.woken).finish()
    }
}
