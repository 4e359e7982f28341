//! Chunks that wait for the kernel to take them: in order, whole, once.
//!
//! A chunk is whatever the caller keeps alive (an immutable `bytes`, a copy): nothing is copied here. Empty chunks are not kept,
//! so a queue that is not empty has bytes. The kernel may take any number of bytes; the queue remembers how far into its first
//! chunk it got. Dropping a chunk may run foreign code (a buffer export is released): `consume_with` and `clear` hand the chunks
//! out, so that the caller drops them when it holds no borrow.

use std::collections::{TryReserveError, VecDeque};
use std::fmt;
use std::io::IoSlice;
use std::ops::Deref;

/// More slices than this are not offered to the kernel at a time. It would accept 1,024; beyond 64 nothing is gained by more, and
/// the array lives on the stack.
pub const IO_SLICES_MAX: usize = 64;

pub struct WriteQueue<B> {
    chunks: VecDeque<B>,
    /// How much of the first chunk is gone; less than its length.
    front_taken: usize,
    len_bytes: usize,
}

impl<B: AsRef<[u8]>> Default for WriteQueue<B> {
    fn default() -> Self {
        WriteQueue::new()
    }
}

impl<B: AsRef<[u8]>> WriteQueue<B> {
    pub const fn new() -> WriteQueue<B> {
        WriteQueue { chunks: VecDeque::new(), front_taken: 0, len_bytes: 0 }
    }

    /// Makes sure that so many more chunks can be queued without asking for memory.
    pub fn try_reserve(&mut self, chunks: usize) -> Result<(), TryReserveError> {
        self.chunks.try_reserve(chunks)
    }

    pub fn push(&mut self, chunk: B) {
        self.push_from(chunk, 0);
    }

    /// Queues what of `chunk` lies behind its first `taken` bytes: the rest of a write that the kernel took in part.
    pub fn push_from(&mut self, chunk: B, taken: usize) {
        let len = chunk.as_ref().len();
        debug_assert!(taken <= len && (taken == 0 || self.chunks.is_empty()));
        if taken >= len {
            return;
        }
        if self.chunks.is_empty() {
            self.front_taken = taken;
        }
        self.len_bytes += len - taken;
        self.chunks.push_back(chunk);
    }

    /// Bytes that wait.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    #[inline]
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// What waits in the first chunk.
    #[inline]
    pub fn front(&self) -> Option<&[u8]> {
        self.chunks.front().map(|chunk| &chunk.as_ref()[self.front_taken..])
    }

    /// All chunks, for a collector that wants to visit them.
    pub fn iter(&self) -> impl Iterator<Item = &B> {
        self.chunks.iter()
    }

    /// The first `max` chunks (at most [`IO_SLICES_MAX`]) for one `send_vectored`.
    pub fn io_slices(&self, max: usize) -> IoSlices<'_> {
        let mut slices = IoSlices { array: [IoSlice::new(&[]); IO_SLICES_MAX], len: 0 };
        let mut skip = self.front_taken;
        for (place, chunk) in slices.array.iter_mut().zip(self.chunks.iter().take(max)) {
            *place = IoSlice::new(&chunk.as_ref()[skip..]);
            skip = 0;
            slices.len += 1;
        }
        slices
    }

    /// The kernel took `count` bytes. Chunks that are gone entirely are dropped here.
    ///
    /// # Panics
    /// If more was taken than there is.
    pub fn consume(&mut self, count: usize) {
        self.consume_with(count, drop);
    }

    /// As [`consume`](Self::consume), but the chunks that are gone are handed out.
    pub fn consume_with(&mut self, count: usize, mut gone: impl FnMut(B)) {
        assert!(count <= self.len_bytes, "the kernel took {count} bytes of {}", self.len_bytes);
        self.len_bytes -= count;
        // Counted from the start of the first chunk.
        let mut taken = self.front_taken + count;
        while let Some(front) = self.chunks.front() {
            let len = front.as_ref().len();
            if taken < len {
                break;
            }
            taken -= len;
            // Bookkeeping first: `gone` may unwind.
            self.front_taken = taken;
            if let Some(chunk) = self.chunks.pop_front() {
                gone(chunk);
            }
        }
        self.front_taken = taken;
    }

    /// Forgets everything and hands the chunks out.
    #[must_use = "dropping the chunks may run foreign code: do it when nothing is borrowed"]
    pub fn clear(&mut self) -> VecDeque<B> {
        self.front_taken = 0;
        self.len_bytes = 0;
        std::mem::take(&mut self.chunks)
    }
}

impl<B> fmt::Debug for WriteQueue<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteQueue").field("len_bytes", &self.len_bytes).field("chunks", &self.chunks.len()).finish()
    }
}

/// Up to [`IO_SLICES_MAX`] slices, without an allocation.
pub struct IoSlices<'a> {
    array: [IoSlice<'a>; IO_SLICES_MAX],
    len: usize,
}

impl<'a> Deref for IoSlices<'a> {
    type Target = [IoSlice<'a>];

    fn deref(&self) -> &[IoSlice<'a>] {
        &self.array[..self.len]
    }
}
