//! What is due when: timers in the order (deadline, insertion).
//!
//! Most timers are time limits that are cancelled long before they are due, and most of the others were set in one batch. So the
//! order is established as late as possible, and in bulk:
//!
//! * `staged`: unordered, just inserted. Only the earliest is known. A timer cancelled here was never ordered at all.
//! * `run`: ordered, the earliest last, so that taking it is a `pop`. A large `staged` is sorted into it.
//! * `heap`: what a small `staged` goes into when a large `run` exists that is not worth sorting again.
//!
//! `staged` is settled into the other two when its earliest timer is due or has been cancelled. Values live in a slab, found by a
//! [`TimerKey`] in O(1); cancelling takes the value out at once and leaves a dead entry behind, and when more than half of
//! the entries are dead they are swept out and the memory is given back.
//!
//! Measured (`cargo run --release -p hayase-driver --example timers`), 100,000 timers in random order, nanoseconds a timer: insert
//! 17, take all in order 41, cancel all 9; insert, look at the next deadline and cancel again 5. A bare binary heap, which can
//! neither cancel nor find a timer, needs 11 + 58. A timer wheel would have to sort its slots to keep nanoseconds apart.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, TryReserveError};
use std::fmt;
use std::mem;

use crate::time::Time;

/// Fewer entries than this are not worth a sweep or a sort.
const SMALL: usize = 64;

pub struct TimerQueue<T> {
    slots: Vec<Slot<T>>,
    /// The first of a chain of free slots.
    free: u32,
    live: usize,
    /// Counts insertions. Orders equal deadlines, and tells a key from the next user of its slot: it never comes again.
    next_serial: u64,
    staged: Vec<Entry>,
    staged_earliest: Option<Entry>,
    run: Vec<Entry>,
    heap: BinaryHeap<Reverse<Entry>>,
}

/// Names one insertion for ever: a key whose timer fired or was cancelled reaches nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerKey {
    serial: u64,
    slot: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    deadline: Time,
    serial: u64,
    slot: u32,
}

impl Entry {
    /// The whole order in one number, which compares without a branch.
    #[inline]
    fn rank(&self) -> u128 {
        u128::from(self.deadline.as_nanos()) << 64 | u128::from(self.serial)
    }
}

impl PartialOrd for Entry {
    #[inline]
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    #[inline]
    fn cmp(&self, other: &Entry) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

enum Slot<T> {
    Used { serial: u64, value: T },
    Free { next: u32 },
}

const END_OF_FREE: u32 = u32::MAX;

impl<T> Default for TimerQueue<T> {
    fn default() -> Self {
        TimerQueue::new()
    }
}

impl<T> TimerQueue<T> {
    pub const fn new() -> TimerQueue<T> {
        TimerQueue {
            slots: Vec::new(),
            free: END_OF_FREE,
            live: 0,
            next_serial: 0,
            staged: Vec::new(),
            staged_earliest: None,
            run: Vec::new(),
            heap: BinaryHeap::new(),
        }
    }

    /// Timers that are neither due and taken nor cancelled.
    #[inline]
    pub fn len(&self) -> usize {
        self.live
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Makes sure that one more timer can be inserted without asking for memory.
    #[inline]
    pub fn try_reserve(&mut self) -> Result<(), TryReserveError> {
        if self.free == END_OF_FREE {
            self.slots.try_reserve(1)?;
        }
        self.staged.try_reserve(1)
    }

    /// # Panics
    /// With 2^32 - 1 timers at a time, which is 160 GB of them.
    pub fn insert(&mut self, deadline: Time, value: T) -> TimerKey {
        let serial = self.next_serial;
        self.next_serial += 1;
        let used = Slot::Used { serial, value };
        let slot = self.free;
        let slot = match self.slots.get_mut(slot as usize) {
            Some(place) => {
                if let Slot::Free { next } = mem::replace(place, used) {
                    self.free = next;
                }
                slot
            }
            None => {
                let slot = u32::try_from(self.slots.len()).ok().filter(|slot| *slot != END_OF_FREE);
                self.slots.push(used);
                slot.expect("fewer than 2^32 - 1 timers")
            }
        };
        self.live += 1;
        let entry = Entry { deadline, serial, slot };
        self.staged.push(entry);
        if self.staged_earliest.is_none_or(|earliest| entry < earliest) {
            self.staged_earliest = Some(entry);
        }
        TimerKey { serial, slot }
    }

    /// Takes the value of a timer that has not fired.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let value = self.take(key.slot, key.serial)?;
        let entries = self.staged.len() + self.run.len() + self.heap.len();
        if self.live == 0 {
            self.reset();
        } else if entries > SMALL && entries > 2 * self.live {
            self.sweep();
        }
        Some(value)
    }

    pub fn get(&self, key: TimerKey) -> Option<&T> {
        match self.slots.get(key.slot as usize) {
            Some(Slot::Used { serial, value }) if *serial == key.serial => Some(value),
            Some(Slot::Used { .. } | Slot::Free { .. }) | None => None,
        }
    }

    /// When the earliest live timer is due. May put things in order, therefore `&mut`.
    pub fn next_deadline(&mut self) -> Option<Time> {
        if self.live == 0 {
            return None;
        }
        if self.staged_earliest.is_some_and(|entry| !self.is_live(entry)) {
            self.settle();
        }
        self.drop_dead_heads();
        let ordered = self.earliest_ordered();
        match (ordered, self.staged_earliest) {
            (Some(a), Some(b)) => Some(a.min(b).deadline),
            (a, b) => a.or(b).map(|entry| entry.deadline),
        }
    }

    /// No timer is due before this. At the cost of three looks, because nothing is put in order: a timer that was cancelled
    /// counts until somebody comes across it.
    #[inline]
    pub fn earliest_possible(&self) -> Time {
        let staged = self.staged_earliest.map_or(Time::MAX, |entry| entry.deadline);
        let run = self.run.last().map_or(Time::MAX, |entry| entry.deadline);
        let heap = self.heap.peek().map_or(Time::MAX, |entry| entry.0.deadline);
        staged.min(run).min(heap)
    }

    /// The next value that is due, in the order (deadline, insertion). Call it until `None`.
    pub fn pop_expired(&mut self, now: Time) -> Option<T> {
        loop {
            if self.staged_earliest.is_some_and(|entry| entry.deadline <= now) {
                self.settle();
            }
            let from_run = self.run.last().copied();
            let from_heap = self.heap.peek().map(|entry| entry.0);
            let entry = match (from_run, from_heap) {
                (Some(a), Some(b)) => a.min(b),
                (a, b) => a.or(b)?,
            };
            if entry.deadline > now {
                return None;
            }
            if from_run == Some(entry) {
                self.run.pop();
            } else {
                self.heap.pop();
            }
            if let Some(value) = self.take(entry.slot, entry.serial) {
                if self.live == 0 {
                    self.reset();
                }
                return Some(value);
            }
        }
    }

    /// The live values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        })
    }

    /// Empties the queue and hands the values out, in no particular order. The queue is empty and usable before the first of them
    /// is dropped.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        let slots = mem::take(&mut self.slots);
        self.live = 0;
        self.reset();
        slots.into_iter().filter_map(|slot| match slot {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        })
    }

    #[inline]
    fn is_live(&self, entry: Entry) -> bool {
        is_live(&self.slots, entry)
    }

    fn take(&mut self, slot: u32, serial: u64) -> Option<T> {
        let place = self.slots.get_mut(slot as usize)?;
        match place {
            Slot::Used { serial: used_by, .. } if *used_by == serial => {}
            Slot::Used { .. } | Slot::Free { .. } => return None,
        }
        let taken = mem::replace(place, Slot::Free { next: self.free });
        self.free = slot;
        self.live -= 1;
        match taken {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        }
    }

    fn earliest_ordered(&self) -> Option<Entry> {
        match (self.run.last(), self.heap.peek()) {
            (Some(a), Some(b)) => Some(*a.min(&b.0)),
            (a, b) => a.copied().or(b.map(|entry| entry.0)),
        }
    }

    fn drop_dead_heads(&mut self) {
        while self.run.last().is_some_and(|entry| !is_live(&self.slots, *entry)) {
            self.run.pop();
        }
        while self.heap.peek().is_some_and(|entry| !is_live(&self.slots, entry.0)) {
            self.heap.pop();
        }
    }

    /// Brings `staged` into order. Each entry passes here at most once; sorting `run` again is paid for by the entries that
    /// come new into it, at least half as many as it has.
    fn settle(&mut self) {
        let slots = &self.slots;
        self.staged_earliest = None;
        if self.staged.len() > SMALL && self.staged.len() >= self.run.len() / 2 {
            self.run.extend(self.staged.drain(..).filter(|entry| is_live(slots, *entry)));
            // Latest first. The old run is recognised as sorted and only merged.
            self.run.sort_by(|a, b| b.cmp(a));
        } else {
            self.heap.extend(self.staged.drain(..).filter(|entry| is_live(slots, *entry)).map(Reverse));
        }
    }

    /// Nothing is live: forgets all entries at once. Memory for a few timers stays.
    fn reset(&mut self) {
        debug_assert_eq!(self.live, 0);
        self.staged_earliest = None;
        self.staged.clear();
        self.staged.shrink_to(2 * SMALL);
        self.run.clear();
        self.run.shrink_to(2 * SMALL);
        self.heap.clear();
        self.heap.shrink_to(2 * SMALL);
        self.slots.clear();
        self.slots.shrink_to(2 * SMALL);
        self.free = END_OF_FREE;
    }

    /// Removes dead entries and gives memory back.
    fn sweep(&mut self) {
        let slots = &self.slots;
        self.staged.retain(|entry| is_live(slots, *entry));
        self.staged_earliest = self.staged.iter().min().copied();
        self.run.retain(|entry| is_live(slots, *entry));
        self.heap.retain(|entry| is_live(slots, entry.0));
        self.staged.shrink_to(2 * self.live.max(SMALL));
        self.run.shrink_to(2 * self.live.max(SMALL));
        self.heap.shrink_to(2 * self.live.max(SMALL));
        if self.slots.len() > 4 * self.live.max(SMALL) {
            self.shorten_slots();
        }
    }

    /// Cuts the free slots at the end off. A key of one of them says with its serial that it is old, whoever uses the slot next.
    fn shorten_slots(&mut self) {
        while matches!(self.slots.last(), Some(Slot::Free { .. })) {
            self.slots.pop();
        }
        self.slots.shrink_to(2 * self.live.max(SMALL));
        self.free = END_OF_FREE;
        for (index, slot) in self.slots.iter_mut().enumerate().rev() {
            if let Slot::Free { next } = slot {
                *next = mem::replace(&mut self.free, index as u32);
            }
        }
    }
}

#[inline]
fn is_live<T>(slots: &[Slot<T>], entry: Entry) -> bool {
    matches!(slots.get(entry.slot as usize), Some(Slot::Used { serial, .. }) if *serial == entry.serial)
}

impl<T> fmt::Debug for TimerQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerQueue").field("len", &self.live).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    fn due(queue: &mut TimerQueue<u32>, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop_expired(at(now))).collect()
    }

    #[test]
    fn timers_fire_by_deadline_and_equal_ones_in_the_order_of_insertion() {
        let mut queue = TimerQueue::new();
        for (deadline, name) in [(5, 1), (3, 2), (5, 3), (1, 4), (5, 5)] {
            queue.insert(at(deadline), name);
        }
        assert_eq!(queue.next_deadline(), Some(at(1)));
        assert_eq!(due(&mut queue, 4), [4, 2]);
        assert_eq!(due(&mut queue, 5), [1, 3, 5]);
        assert_eq!(queue.next_deadline(), None);
    }

    #[test]
    fn a_cancelled_timer_gives_its_value_back_and_its_key_is_dead_for_ever() {
        let mut queue = TimerQueue::new();
        let key = queue.insert(at(1), 7);
        assert_eq!(queue.cancel(key), Some(7));
        let reused = queue.insert(at(2), 8);
        assert_eq!(queue.cancel(key), None);
        assert_eq!(queue.get(key), None);
        assert_eq!(queue.get(reused), Some(&8));
        assert_eq!(due(&mut queue, 9), [8]);
        assert_eq!(queue.cancel(reused), None);
    }

    #[test]
    fn a_cancelled_earliest_timer_does_not_show_in_the_next_deadline() {
        let mut queue = TimerQueue::new();
        let early = queue.insert(at(1), 1);
        queue.insert(at(9), 2);
        queue.cancel(early);
        assert_eq!(queue.next_deadline(), Some(at(9)));
    }

    #[test]
    fn memory_returns_when_all_are_cancelled() {
        let mut queue = TimerQueue::new();
        let count = if cfg!(miri) { 1_000 } else { 100_000 };
        let keys: Vec<_> = (0..count).map(|n: u32| queue.insert(at(u64::from(n ^ 0x5555)), n)).collect();
        queue.pop_expired(at(10));
        for key in keys {
            queue.cancel(key);
        }
        assert_eq!(queue.len(), 0);
        let capacity = queue.staged.capacity() + queue.run.capacity() + queue.heap.capacity() + queue.slots.capacity();
        assert!(capacity <= 8 * SMALL, "{capacity} entries of memory are kept");
    }
}
