//! The addresses of a socket's peers, in the kernel's form and in Python's, remembered.
//!
//! A server hears from the same peers again and answers to the very tuples that it was given, most often to the one it was given
//! last. Making a tuple costs two formatted numbers and three objects, reading one a parser; finding it again costs a
//! multiplication. Both tables are small and grow while addresses do not find a place, up to [`ENTRIES_MAX`]; then the newer
//! address takes the place of an older one.

use std::net::{IpAddr, SocketAddr};

use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString, PyTuple};

use crate::raw::cell::GilCell;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::transports::address;

const ENTRIES_FIRST: usize = 8;
/// So many places, one after the other, are looked at for an address.
const PLACES: usize = 4;
const ENTRIES_MAX: usize = 1024;

struct Entry {
    address: SocketAddr,
    /// Keeps the tuple alive, so that nothing else can be at its place in memory.
    tuple: Obj,
}

pub(super) struct Peers {
    by_address: Table,
    by_tuple: Table,
    /// The sender of the datagram that was received last.
    last: Option<Entry>,
}

impl Peers {
    pub(super) const fn new() -> Peers {
        Peers { by_address: Table(Vec::new()), by_tuple: Table(Vec::new()), last: None }
    }

    pub(super) fn visit(&self, visitor: &mut Visitor<'_>) {
        for entry in self.by_address.0.iter().chain(&self.by_tuple.0).chain([&self.last]).flatten() {
            visitor.obj(&entry.tuple);
        }
    }
}

/// The tuple for the sender of a datagram.
#[inline]
pub(super) fn tuple_of(py: Python<'_>, peers: &GilCell<Peers>, address: &SocketAddr) -> PyResult<Obj> {
    let found = peers.with(py, |peers| {
        let entry = peers.by_address.find(hash_of_address(address), |entry| entry.address == *address)?;
        let (tuple, last) = (entry.tuple.clone(), Entry { address: *address, tuple: entry.tuple.clone() });
        Some((tuple, peers.last.replace(last)))
    });
    if let Some((tuple, _last)) = found {
        return Ok(tuple);
    }
    let tuple = Obj::from_bound(address::tuple(py, address)?);
    remember(py, peers, |peers| (&mut peers.by_address, hash_entry_by_address), *address, &tuple);
    Ok(tuple)
}

/// The address that a tuple with a numeric host means; `None` if it has another form or a name in it.
#[inline]
pub(super) fn address_of(py: Python<'_>, peers: &GilCell<Peers>, tuple: &Obj) -> Option<SocketAddr> {
    let found = peers.with(py, |peers| {
        let is_it = |entry: &Entry| entry.tuple.is(tuple.as_ptr());
        match &peers.last {
            Some(last) if is_it(last) => Some(last.address),
            Some(_) | None => peers.by_tuple.find(hash_of_tuple(tuple), is_it).map(|entry| entry.address),
        }
    });
    if found.is_some() {
        return found;
    }
    let object = tuple.borrow(py);
    let address = address::from_tuple(&object)?;
    // Of other types the same object may mean something else tomorrow.
    let is_constant = object.cast_exact::<PyTuple>().is_ok_and(|items| {
        let mut items = items.iter();
        items.next().is_some_and(|host| host.is_exact_instance_of::<PyString>())
            && items.all(|number| number.is_exact_instance_of::<PyInt>())
    });
    if is_constant {
        remember(py, peers, |peers| (&mut peers.by_tuple, hash_entry_by_tuple), address, tuple);
    }
    Some(address)
}

type Hash = fn(&Entry) -> usize;

fn remember(
    py: Python<'_>,
    peers: &GilCell<Peers>,
    pick: fn(&mut Peers) -> (&mut Table, Hash),
    address: SocketAddr,
    tuple: &Obj,
) {
    let entry = Entry { address, tuple: tuple.clone() };
    // Who had to go is dropped when the cell is closed again.
    let gone = peers.with(py, |peers| {
        let (table, hash) = pick(peers);
        table.insert(entry, hash)
    });
    drop(gone);
}

/// Open addressing; its length is a power of two, or zero. Nothing is ever removed.
struct Table(Vec<Option<Entry>>);

impl Table {
    #[inline]
    fn find(&self, hash: usize, is_it: impl Fn(&Entry) -> bool) -> Option<&Entry> {
        let mask = self.0.len().checked_sub(1)?;
        (0..PLACES).map_while(|place| self.0[(hash + place) & mask].as_ref()).find(|entry| is_it(entry))
    }

    /// Returns the entries that lost their places.
    fn insert(&mut self, entry: Entry, hash: Hash) -> Vec<Entry> {
        let mut gone = Vec::new();
        let mut entry = entry;
        loop {
            match self.put(entry, hash) {
                Ok(()) => return gone,
                Err(homeless) => entry = homeless,
            }
            let len = if self.0.is_empty() { ENTRIES_FIRST } else { self.0.len() * 2 };
            if len > ENTRIES_MAX {
                let home = hash(&entry) & (self.0.len() - 1);
                gone.extend(self.0[home].replace(entry));
                return gone;
            }
            let before = std::mem::replace(&mut self.0, std::iter::repeat_with(|| None).take(len).collect());
            for entry in before.into_iter().flatten() {
                gone.extend(self.put(entry, hash).err());
            }
        }
    }

    /// Into the first free place of its own; given back if there is none.
    fn put(&mut self, entry: Entry, hash: Hash) -> Result<(), Entry> {
        let Some(mask) = self.0.len().checked_sub(1) else {
            return Err(entry);
        };
        let home = hash(&entry);
        for place in 0..PLACES {
            let place = &mut self.0[(home + place) & mask];
            if place.is_none() {
                *place = Some(entry);
                return Ok(());
            }
        }
        Err(entry)
    }
}

/// Fibonacci hashing: the upper bits of the product depend on all bits of the number.
#[inline]
fn mixed(number: u64) -> usize {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}

#[inline]
fn hash_of_address(address: &SocketAddr) -> usize {
    let host = match address.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ ip.to_bits() as u64,
    };
    mixed(host << 16 ^ u64::from(address.port()))
}

#[inline]
fn hash_of_tuple(tuple: &Obj) -> usize {
    // Objects lie at multiples of 16.
    mixed(tuple.as_ptr().addr() as u64 >> 4)
}

fn hash_entry_by_address(entry: &Entry) -> usize {
    hash_of_address(&entry.address)
}

fn hash_entry_by_tuple(entry: &Entry) -> usize {
    hash_of_tuple(&entry.tuple)
}
