//! Who is registered with the driver: a slab whose places carry a generation.
//!
//! A token is `index | generation << 32`. Removing counts the generation up, so that an event which was queued for the
//! old owner of a place, or of a descriptor number, reaches nobody.

use std::os::fd::RawFd;

use driver::{Interest, Token};

use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;

/// Which class the object of a slot has; only `event_loop/dispatch.rs` turns it back into one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SlotKind {
    /// A connected stream transport.
    Stream,
    /// The reading end of a pipe.
    ReadPipe,
    /// The writing end of a pipe.
    WritePipe,
    /// A child process, by its pidfd.
    Child,
    /// A datagram transport.
    Datagram,
    /// A listening socket of a server.
    Listener,
    /// `add_reader`/`add_writer` and native code that waits for a socket of the program's: `event_loop/watchers.rs`.
    Handles,
    /// Native code that waits once for readiness (a connect in progress): a future to resolve.
    Waiter,
    /// Of a stream transport whose reading is paused: still registered, so that pausing and resuming before anything comes costs
    /// the kernel nothing, but without its object; to everybody else the descriptor is free.
    Parked,
    /// The socket pair through which the interpreter tells of signals; the loop's own, no object.
    Signals,
}

pub(crate) struct Slot {
    pub(crate) kind: SlotKind,
    pub(crate) interest: Interest,
    pub(crate) fd: RawFd,
    pub(crate) object: Obj,
}

struct Place {
    generation: u32,
    /// Next free place while this one is free.
    next_free: u32,
    slot: Option<Slot>,
}

const NONE: u32 = u32::MAX;
/// In `by_fd`: nobody. No token looks like it, because no slab gets that long.
const NO_TOKEN: u64 = u64::MAX;

pub(crate) struct Slots {
    places: Vec<Place>,
    first_free: u32,
    /// Index is the descriptor number, which the kernel keeps small.
    by_fd: Vec<u64>,
}

impl Slots {
    pub(crate) const fn new() -> Slots {
        Slots { places: Vec::new(), first_free: NONE, by_fd: Vec::new() }
    }

    pub(crate) fn insert(&mut self, kind: SlotKind, object: Obj, fd: RawFd, interest: Interest) -> Token {
        let slot = Some(Slot { kind, interest, fd, object });
        let index = if self.first_free == NONE {
            self.places.push(Place { generation: 0, next_free: NONE, slot });
            self.places.len() - 1
        } else {
            let index = self.first_free as usize;
            let place = &mut self.places[index];
            self.first_free = place.next_free;
            place.slot = slot;
            index
        };
        let token = index as u64 | u64::from(self.places[index].generation) << 32;
        if let Ok(number) = usize::try_from(fd) {
            if number >= self.by_fd.len() {
                self.by_fd.resize(number + 1, NO_TOKEN);
            }
            self.by_fd[number] = token;
        }
        Token(token)
    }

    /// The slot, if it is still the one that the token was given for.
    #[inline]
    pub(crate) fn get(&self, token: Token) -> Option<&Slot> {
        let place = self.places.get(token.0 as u32 as usize)?;
        if place.generation != (token.0 >> 32) as u32 {
            return None;
        }
        place.slot.as_ref()
    }

    /// The descriptor and what it was watched for before.
    pub(crate) fn set_interest(&mut self, token: Token, interest: Interest) -> Option<(RawFd, Interest)> {
        self.get(token)?;
        let slot = self.places[token.0 as u32 as usize].slot.as_mut()?;
        Some((slot.fd, std::mem::replace(&mut slot.interest, interest)))
    }

    /// Handed out, so that the object is dropped when no cell is open.
    pub(crate) fn remove(&mut self, token: Token) -> Option<Slot> {
        self.get(token)?;
        let index = token.0 as u32;
        let place = &mut self.places[index as usize];
        let slot = place.slot.take()?;
        place.generation = place.generation.wrapping_add(1);
        place.next_free = self.first_free;
        self.first_free = index;
        if let Some(entry) = usize::try_from(slot.fd).ok().and_then(|number| self.by_fd.get_mut(number))
            && *entry == token.0
        {
            *entry = NO_TOKEN;
        }
        Some(slot)
    }

    /// Puts another object into a slot, which stays registered, and hands out the one before. `None`: the slot is gone.
    pub(crate) fn replace(&mut self, token: Token, kind: SlotKind, object: Obj) -> Option<Obj> {
        self.get(token)?;
        let slot = self.places[token.0 as u32 as usize].slot.as_mut()?;
        slot.kind = kind;
        Some(std::mem::replace(&mut slot.object, object))
    }

    /// Who watches a descriptor.
    pub(crate) fn token_of(&self, fd: RawFd) -> Option<Token> {
        self.registered(fd).filter(|&token| self.get(token).is_some_and(|slot| slot.kind != SlotKind::Parked))
    }

    /// The slot of a descriptor, parked or not.
    pub(crate) fn registered(&self, fd: RawFd) -> Option<Token> {
        let token = *self.by_fd.get(usize::try_from(fd).ok()?)?;
        (token != NO_TOKEN).then_some(Token(token))
    }

    pub(crate) fn objects_of(&self, kind: SlotKind) -> Vec<Obj> {
        let slots = self.places.iter().filter_map(|place| place.slot.as_ref());
        slots.filter(|slot| slot.kind == kind).map(|slot| slot.object.clone()).collect()
    }

    /// Everything, for a loop that is closed; tokens given out so far reach nobody.
    pub(crate) fn drain(&mut self) -> Vec<Slot> {
        let tokens: Vec<Token> = (0..self.places.len())
            .filter(|&index| self.places[index].slot.is_some())
            .map(|index| Token(index as u64 | u64::from(self.places[index].generation) << 32))
            .collect();
        tokens.into_iter().filter_map(|token| self.remove(token)).collect()
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        self.places.iter().filter_map(|place| place.slot.as_ref()).for_each(|slot| visitor.obj(&slot.object));
    }
}
