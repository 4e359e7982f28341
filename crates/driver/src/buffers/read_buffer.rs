//! Bytes that arrived and wait for their reader: `read`, `readexactly`, `readuntil` of a stream.
//!
//! What must stay true
//! * Bytes leave in the order in which they came, and taking some from the front moves nothing: the front is an offset. The rest is
//!   moved down only when room is needed and at least half is gone, so each byte is moved once on average.
//! * An empty buffer holds no large memory: ten thousand idle connections cost what they need.
//! * A search that found nothing goes on where it stopped, so that a long line in small pieces costs its length, not its square.

use std::collections::TryReserveError;
use std::fmt;
use std::io;
use std::os::fd::RawFd;

use memchr::memchr;
use memchr::memmem::Finder;

use crate::Driver;

/// An empty buffer keeps no more than this.
const IDLE_BYTES_MAX: usize = 4 * 1024;

#[derive(Default)]
pub struct ReadBuffer {
    bytes: Vec<u8>,
    /// What of `bytes` was taken already.
    start: usize,
}

impl ReadBuffer {
    pub const fn new() -> ReadBuffer {
        ReadBuffer { bytes: Vec::new(), start: 0 }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything that waits.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Exactly `count` bytes, if so many have arrived. Follow it with [`consume`](Self::consume).
    #[inline]
    pub fn exactly(&self, count: usize) -> Option<&[u8]> {
        self.as_slice().get(..count)
    }

    /// Without the memory for them, nothing changes.
    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), TryReserveError> {
        self.make_room(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Receives up to `max` bytes behind what is there, without a copy in between.
    pub fn recv_from(&mut self, driver: &Driver, fd: RawFd, max: usize) -> io::Result<usize> {
        if max == 0 {
            return Ok(0);
        }
        self.make_room(max).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let received = driver.recv_appending(fd, &mut self.bytes, max);
        self.release_if_idle();
        received
    }

    /// The reader has `count` bytes from the front.
    ///
    /// # Panics
    /// If so many are not there.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "{count} bytes consumed of {}", self.len());
        self.start += count;
        self.release_if_idle();
    }

    pub fn clear(&mut self) {
        self.consume(self.len());
    }

    /// Looks for the separator that ends first. `limit` is how many bytes may come before it.
    ///
    /// `progress` belongs to one reading: it begins as [`Progress::default()`] and is passed again after more bytes came.
    /// Nothing may be consumed in between.
    pub fn scan(&self, separators: &Separators, progress: &mut Progress, limit: usize) -> Scan {
        let bytes = self.as_slice();
        debug_assert!(progress.0 <= bytes.len());
        let mut found: Option<(usize, usize)> = None;
        for needle in separators.shortest_first.as_slice() {
            // Only a match that ends earlier is of interest. Of two that end together the shorter one counts, as in asyncio.
            let end = found.map_or(bytes.len(), |(_, end)| end - 1);
            let Some(place) = bytes.get(progress.0..end).and_then(|unseen| needle.find(unseen)) else {
                continue;
            };
            let start = progress.0 + place;
            found = Some((start, start + needle.len()));
        }
        match found {
            Some((start, _)) if start > limit => Scan::TooFar { start },
            Some((_, end)) => Scan::Found { end },
            None => {
                if bytes.len() - progress.0 >= separators.len_min {
                    // A separator may have begun in the last bytes; none begins before them.
                    progress.0 = progress.0.max((bytes.len() + 1).saturating_sub(separators.len_max));
                }
                if progress.0 > limit { Scan::TooLong { searched: progress.0 } } else { Scan::NotYet }
            }
        }
    }

    fn make_room(&mut self, count: usize) -> Result<(), TryReserveError> {
        if self.start > 0 && self.bytes.capacity() - self.bytes.len() < count && self.start >= self.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        // What is needed may be there where twice as much is not.
        self.bytes.try_reserve(count).or_else(|_| self.bytes.try_reserve_exact(count))
    }

    fn release_if_idle(&mut self) {
        if self.start == self.bytes.len() {
            self.start = 0;
            self.bytes.clear();
            if self.bytes.capacity() > IDLE_BYTES_MAX {
                self.bytes = Vec::new();
            }
        }
    }
}

impl fmt::Debug for ReadBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBuffer").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// How far a search has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress(usize);

/// What a search says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scan {
    /// The chunk, its separator included, is the first `end` bytes.
    Found { end: usize },
    /// None is there yet.
    NotYet,
    /// A separator begins at `start`, behind the limit.
    TooFar { start: usize },
    /// None begins within the first `searched` bytes, which are more than the limit.
    TooLong { searched: usize },
}

/// What ends a chunk: one separator or several, of which the one that ends first counts.
pub struct Separators {
    shortest_first: Needles,
    len_min: usize,
    len_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeparatorsError {
    NoSeparators,
    EmptySeparator,
}

/// One separator, as nearly every program has, needs no memory of its own.
enum Needles {
    One(Needle),
    Several(Vec<Needle>),
}

enum Needle {
    Byte(u8),
    /// Shorter than it would take to prepare a search: the places of its first byte are looked at.
    Short {
        bytes: [u8; SHORT_BYTES_MAX],
        len: u8,
    },
    Long(Box<Finder<'static>>),
}

const SHORT_BYTES_MAX: usize = 8;

impl Separators {
    pub fn new<S: AsRef<[u8]>>(separators: &[S]) -> Result<Separators, SeparatorsError> {
        if let [one] = separators {
            return Separators::one(one.as_ref());
        }
        let mut sorted: Vec<&[u8]> = separators.iter().map(AsRef::as_ref).collect();
        sorted.sort_by_key(|separator| separator.len());
        match (sorted.first(), sorted.last()) {
            (Some([]), _) => Err(SeparatorsError::EmptySeparator),
            (Some(shortest), Some(longest)) => Ok(Separators {
                len_min: shortest.len(),
                len_max: longest.len(),
                shortest_first: Needles::Several(sorted.iter().copied().map(Needle::new).collect()),
            }),
            (None, _) | (_, None) => Err(SeparatorsError::NoSeparators),
        }
    }

    pub fn one(separator: &[u8]) -> Result<Separators, SeparatorsError> {
        if separator.is_empty() {
            return Err(SeparatorsError::EmptySeparator);
        }
        let len = separator.len();
        Ok(Separators { shortest_first: Needles::One(Needle::new(separator)), len_min: len, len_max: len })
    }

    pub const fn newline() -> Separators {
        Separators { shortest_first: Needles::One(Needle::Byte(b'\n')), len_min: 1, len_max: 1 }
    }
}

impl Needles {
    fn as_slice(&self) -> &[Needle] {
        match self {
            Needles::One(needle) => std::slice::from_ref(needle),
            Needles::Several(needles) => needles,
        }
    }
}

impl Needle {
    fn new(separator: &[u8]) -> Needle {
        match separator {
            [byte] => Needle::Byte(*byte),
            short if short.len() <= SHORT_BYTES_MAX => {
                let mut bytes = [0; SHORT_BYTES_MAX];
                bytes[..short.len()].copy_from_slice(short);
                Needle::Short { bytes, len: short.len() as u8 }
            }
            long => Needle::Long(Box::new(Finder::new(long).into_owned())),
        }
    }

    fn len(&self) -> usize {
        match self {
            Needle::Byte(_) => 1,
            Needle::Short { len, .. } => usize::from(*len),
            Needle::Long(finder) => finder.needle().len(),
        }
    }

    fn find(&self, bytes: &[u8]) -> Option<usize> {
        match self {
            Needle::Byte(byte) => memchr(*byte, bytes),
            Needle::Short { bytes: needle, len } => find_short(&needle[..usize::from(*len)], bytes),
            Needle::Long(finder) => finder.find(bytes),
        }
    }
}

fn find_short(needle: &[u8], bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + memchr(needle[0], bytes.get(from..)?)?;
        if bytes[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
}

impl fmt::Display for SeparatorsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SeparatorsError::NoSeparators => "Separator should contain at least one element",
            SeparatorsError::EmptySeparator => "Separator should be at least one-byte string",
        })
    }
}

impl std::error::Error for SeparatorsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8], separators: &[&[u8]], limit: usize) -> Scan {
        let mut buffer = ReadBuffer::new();
        buffer.extend(bytes).unwrap();
        buffer.scan(&Separators::new(separators).unwrap(), &mut Progress::default(), limit)
    }

    #[test]
    fn the_separator_that_ends_first_wins() {
        assert_eq!(scan(b"ab--c;", &[b";", b"--"], 99), Scan::Found { end: 4 });
        assert_eq!(scan(b"ab;c--", &[b"--", b";"], 99), Scan::Found { end: 3 });
        // A long one begins first, but a short one inside it ends first.
        assert_eq!(scan(b"xaby", &[b"xaby", b"ab"], 99), Scan::Found { end: 3 });
    }

    #[test]
    fn the_limit_counts_what_comes_before_the_separator() {
        assert_eq!(scan(b"abc\n", &[b"\n"], 3), Scan::Found { end: 4 });
        assert_eq!(scan(b"abcd\n", &[b"\n"], 3), Scan::TooFar { start: 4 });
        assert_eq!(scan(b"abc", &[b"\n"], 3), Scan::NotYet);
        assert_eq!(scan(b"abcd", &[b"\n"], 3), Scan::TooLong { searched: 4 });
        // Of two that end together the shorter one, which begins later, is measured.
        assert_eq!(scan(b"abc\r\n", &[b"\r\n", b"\n"], 3), Scan::TooFar { start: 4 });
    }

    #[test]
    fn a_separator_in_two_pieces_is_found() {
        let separators = Separators::new(&[b"END"]).unwrap();
        let mut progress = Progress::default();
        let mut buffer = ReadBuffer::new();
        for piece in [&b"text E"[..], b"N"] {
            buffer.extend(piece).unwrap();
            assert_eq!(buffer.scan(&separators, &mut progress, 99), Scan::NotYet);
        }
        buffer.extend(b"D more").unwrap();
        assert_eq!(buffer.scan(&separators, &mut progress, 99), Scan::Found { end: 8 });
    }

    #[test]
    fn separators_must_exist_and_not_be_empty() {
        assert_eq!(Separators::new::<&[u8]>(&[]).err(), Some(SeparatorsError::NoSeparators));
        assert_eq!(Separators::new(&[&b"a"[..], b""]).err(), Some(SeparatorsError::EmptySeparator));
    }

    #[test]
    fn an_emptied_buffer_keeps_no_large_memory() {
        let mut buffer = ReadBuffer::new();
        buffer.extend(&[0; 100_000]).unwrap();
        buffer.consume(99_999);
        buffer.consume(1);
        assert_eq!(buffer.bytes.capacity(), 0);
    }

    #[test]
    fn what_arrives_on_a_socket_is_appended() {
        let driver = Driver::simulated(0);
        let world = driver.simulation().unwrap();
        let (a, b) = world.pair().unwrap();
        let mut buffer = ReadBuffer::new();
        buffer.extend(b"1").unwrap();
        world.send(std::os::fd::AsRawFd::as_raw_fd(&b), b"234").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&a);
        assert_eq!(buffer.recv_from(&driver, number, 2).unwrap(), 2);
        assert_eq!(buffer.recv_from(&driver, number, 99).unwrap(), 1);
        assert_eq!(buffer.as_slice(), b"1234");
        buffer.recv_from(&driver, number, 99).unwrap_err();
        assert_eq!(buffer.as_slice(), b"1234");
    }
}
