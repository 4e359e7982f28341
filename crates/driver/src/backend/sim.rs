//! A world in memory: sockets, time and trouble, all of them repeatable from one seed.
//!
//! What must stay true
//! * It keeps the contract in `mod.rs`. Where the kernel is kind (whole reads, no spurious readiness), the simulation may be told to be as
//!   unkind as the contract allows: [`Trouble`].
//! * Time is virtual. It stands still while the program runs and jumps when the program waits, to the next scripted event or
//!   to the end of the timeout, whichever comes first. A wait without limit and without a script blocks for real until another
//!   thread wakes the driver or acts on the world.
//! * A simulated socket is a real descriptor of `/dev/null`, so that it is owned, closed and numbered like any other. What it *is*
//!   stands in the tables here. Close it with `Driver::close`; a number that comes again without that is taken for closed.
//! * No scripted action and no waker runs under the lock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::ops::Bound;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use crate::events::{Event, Events, Interest, Token};
use crate::time::Time;
use crate::waker::Bell;

/// The clock's start. Not zero, so that code which takes zero for "no time" is found.
const DAWN: Time = Time::from_nanos(1_000_000_000_000);
const BUFFER_BYTES: usize = 16 * 1024;

/// Scripts the world of a simulated driver: its sockets' other ends, its faults, its time. Cheap to clone.
#[derive(Clone)]
pub struct Simulation(Arc<World>);

/// How unkind the world is, in chances out of 1,000. Everything here is allowed by the contract; nothing loses a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trouble {
    /// Reads and writes move a random part of what they could.
    pub short_per_mille: u16,
    /// A wait also reports a watched descriptor that is not ready.
    pub spurious_per_mille: u16,
    /// A call on a ready descriptor says `WouldBlock` all the same.
    pub would_block_per_mille: u16,
    /// A wait or a call is interrupted by a signal.
    pub interrupt_per_mille: u16,
}

impl Trouble {
    /// Everything, often.
    pub const PLENTY: Trouble =
        Trouble { short_per_mille: 500, spurious_per_mille: 200, would_block_per_mille: 150, interrupt_per_mille: 100 };
}

/// A call that can be told to fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Call {
    Watch,
    Recv,
    Send,
    Accept,
    ShutdownWrite,
}

pub(crate) struct World {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    random: u64,
    now: Time,
    trouble: Trouble,
    buffer_bytes: usize,
    nodes: BTreeMap<RawFd, Node>,
    ends: HashMap<EndId, End>,
    next_end: u64,
    registrations: BTreeMap<RawFd, (Interest, Token)>,
    /// The last number that was reported: the next wait begins behind it, so that a small buffer starves nobody.
    reported_last: RawFd,
    faults: HashMap<(RawFd, Call), VecDeque<Errno>>,
    interrupts: u32,
    /// By time, then by the order of scripting.
    script: BTreeMap<(Time, u64), Action>,
    scripted: u64,
    /// The eventfd of this world.
    alarm: bool,
}

type Action = Box<dyn FnOnce(&Simulation) + Send>;

/// What a descriptor stands for.
enum Node {
    Stream(EndId),
    Listener {
        backlog: VecDeque<EndId>,
    },
    /// A regular file, which cannot be watched.
    File,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct EndId(u64);

/// One end of a connection.
struct End {
    peer: EndId,
    incoming: VecDeque<u8>,
    /// The peer said that nothing more comes, or is gone.
    incoming_over: bool,
    /// We said so.
    outgoing_over: bool,
    /// An error that the next call reports, once.
    broken: Option<Errno>,
}

impl Bell for World {
    fn ring(&self) {
        self.change(|state| state.alarm = true);
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let state = State {
            // splitmix64's start; a seed of zero is as good as any.
            random: seed.wrapping_add(0x9E37_79B9_7F4A_7C15),
            now: DAWN,
            trouble: Trouble::default(),
            buffer_bytes: BUFFER_BYTES,
            nodes: BTreeMap::new(),
            ends: HashMap::new(),
            next_end: 0,
            registrations: BTreeMap::new(),
            reported_last: -1,
            faults: HashMap::new(),
            interrupts: 0,
            script: BTreeMap::new(),
            scripted: 0,
            alarm: false,
        };
        World { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the world, and lets a thread that blocks in a wait look at it.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    pub(crate) fn now(&self) -> Time {
        self.lock().now
    }

    pub(crate) fn watch(&self, fd: RawFd, interest: Interest, token: Token) -> io::Result<()> {
        self.change(|state| {
            state.fault(fd, Call::Watch)?;
            match state.nodes.get(&fd) {
                None => return Err(Errno::BADF.into()),
                Some(Node::File) => return Err(Errno::PERM.into()),
                Some(Node::Stream(_) | Node::Listener { .. }) => {}
            }
            state.registrations.insert(fd, (interest, token));
            Ok(())
        })
    }

    pub(crate) fn unwatch(&self, fd: RawFd) {
        self.lock().registrations.remove(&fd);
    }

    pub(crate) fn wait(self: &Arc<World>, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let mut state = self.lock();
        let end = timeout.map(|timeout| state.now + timeout);
        loop {
            let bad_luck = state.trouble.interrupt_per_mille;
            if state.interrupts > 0 || state.chance(bad_luck) {
                state.interrupts = state.interrupts.saturating_sub(1);
                return Err(Errno::INTR.into());
            }
            let now = state.now;
            if let Some(action) = state.take_due(now) {
                drop(state);
                action(&Simulation(Arc::clone(self)));
                state = self.lock();
                continue;
            }
            state.collect_ready(events);
            let alarm = std::mem::take(&mut state.alarm);
            if !events.list.is_empty() || alarm || end.is_some_and(|end| end <= now) {
                return Ok(());
            }
            let next = state.script.first_key_value().map(|((time, _), _)| *time);
            state = match (next, end) {
                (None, None) => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                (next, end) => {
                    state.now = next.unwrap_or(Time::MAX).min(end.unwrap_or(Time::MAX)).max(now);
                    state
                }
            };
        }
    }

    pub(crate) fn recv(&self, fd: RawFd, buf: &mut [u8]) -> io::Result<usize> {
        self.change(|state| state.recv(fd, buf.len(), |place, byte| buf[place] = byte))
    }

    pub(crate) fn recv_uninit(&self, fd: RawFd, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        self.change(|state| {
            state.recv(fd, buf.len(), |place, byte| {
                buf[place].write(byte);
            })
        })
    }

    pub(crate) fn recv_appending(&self, fd: RawFd, bytes: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        self.change(|state| state.recv(fd, max, |_, byte| bytes.push(byte)))
    }

    pub(crate) fn send(&self, fd: RawFd, buf: &[u8]) -> io::Result<usize> {
        self.send_vectored(fd, &[IoSlice::new(buf)])
    }

    pub(crate) fn send_vectored(&self, fd: RawFd, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.change(|state| {
            state.fault(fd, Call::Send)?;
            let len = bufs.iter().map(|buf| buf.len()).sum();
            let room = state.room(fd, len)?;
            let (count, peer) = (state.some_of(room), state.peer_of(fd)?);
            let bytes = bufs.iter().flat_map(|buf| buf.iter().copied());
            if let Some(peer) = state.ends.get_mut(&peer) {
                peer.incoming.extend(bytes.take(count));
            }
            Ok(count)
        })
    }

    pub(crate) fn accept(&self, fd: RawFd) -> io::Result<OwnedFd> {
        self.change(|state| {
            state.fault(fd, Call::Accept)?;
            let Some(Node::Listener { backlog }) = state.nodes.get_mut(&fd) else {
                return Err(Errno::INVAL.into());
            };
            // The descriptor first: if there is none, the connection stays in the backlog.
            let number = if backlog.is_empty() {
                return Err(Errno::AGAIN.into());
            } else {
                placeholder()?
            };
            if let Some(end) = backlog.pop_front() {
                state.adopt(&number, Node::Stream(end));
            }
            Ok(number)
        })
    }

    pub(crate) fn shutdown_write(&self, fd: RawFd) -> io::Result<()> {
        self.change(|state| {
            state.fault(fd, Call::ShutdownWrite)?;
            let peer = state.peer_of(fd)?;
            state.end_of(fd)?.outgoing_over = true;
            if let Some(peer) = state.ends.get_mut(&peer) {
                peer.incoming_over = true;
            }
            Ok(())
        })
    }

    pub(crate) fn take_error(&self, fd: RawFd) -> io::Result<Option<io::Error>> {
        let mut state = self.lock();
        Ok(state.end_of(fd)?.broken.take().map(io::Error::from))
    }

    pub(crate) fn close(&self, fd: RawFd) {
        self.change(|state| state.forget(fd));
    }
}

impl State {
    fn add_to_script(&mut self, time: Time, action: Action) {
        self.script.insert((time, self.scripted), action);
        self.scripted += 1;
    }

    /// The next scripted action whose time has come.
    fn take_due(&mut self, now: Time) -> Option<Action> {
        let next = self.script.first_entry()?;
        (next.key().0 <= now).then(|| next.remove())
    }

    fn next_random(&mut self) -> u64 {
        // splitmix64.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn chance(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.next_random() % 1000 < u64::from(per_mille)
    }

    /// All of `possible`, or with bad luck a part of it, but at least one.
    fn some_of(&mut self, possible: usize) -> usize {
        if possible > 1 && self.chance(self.trouble.short_per_mille) {
            1 + (self.next_random() % possible as u64) as usize
        } else {
            possible
        }
    }

    /// The fault that was ordered for this call, or one that the world comes up with.
    fn fault(&mut self, fd: RawFd, call: Call) -> Result<(), Errno> {
        if let Some(ordered) = self.faults.get_mut(&(fd, call)).and_then(VecDeque::pop_front) {
            return Err(ordered);
        }
        match call {
            Call::Watch | Call::ShutdownWrite => Ok(()),
            Call::Recv | Call::Send | Call::Accept => {
                if self.chance(self.trouble.interrupt_per_mille) {
                    Err(Errno::INTR)
                } else if self.chance(self.trouble.would_block_per_mille) {
                    Err(Errno::AGAIN)
                } else {
                    Ok(())
                }
            }
        }
    }

    fn end_id(&self, fd: RawFd) -> Result<EndId, Errno> {
        match self.nodes.get(&fd) {
            Some(Node::Stream(end)) => Ok(*end),
            Some(Node::Listener { .. }) => Err(Errno::NOTCONN),
            Some(Node::File) => Err(Errno::NOTSOCK),
            None => Err(Errno::BADF),
        }
    }

    fn end_of(&mut self, fd: RawFd) -> Result<&mut End, Errno> {
        let id = self.end_id(fd)?;
        self.ends.get_mut(&id).ok_or(Errno::NOTCONN)
    }

    fn peer_of(&mut self, fd: RawFd) -> Result<EndId, Errno> {
        Ok(self.end_of(fd)?.peer)
    }

    /// How many of `len` bytes the other end can take now; never zero unless `len` is.
    fn room(&mut self, fd: RawFd, len: usize) -> Result<usize, Errno> {
        let end = self.end_of(fd)?;
        if let Some(error) = end.broken.take() {
            end.incoming_over = true;
            end.outgoing_over = true;
            return Err(error);
        }
        if end.outgoing_over {
            return Err(Errno::PIPE);
        }
        let peer = end.peer;
        let Some(peer) = self.ends.get(&peer) else {
            return Err(Errno::PIPE);
        };
        let room = self.buffer_bytes.saturating_sub(peer.incoming.len());
        if room == 0 && len > 0 { Err(Errno::AGAIN) } else { Ok(room.min(len)) }
    }

    fn recv(&mut self, fd: RawFd, len: usize, mut put: impl FnMut(usize, u8)) -> io::Result<usize> {
        self.fault(fd, Call::Recv)?;
        let end = self.end_of(fd)?;
        if end.incoming.is_empty() && len > 0 {
            // What had arrived was read first; now the error, once; then the end.
            if let Some(error) = end.broken.take() {
                end.incoming_over = true;
                end.outgoing_over = true;
                return Err(error.into());
            }
            return if end.incoming_over { Ok(0) } else { Err(Errno::AGAIN.into()) };
        }
        let possible = end.incoming.len().min(len);
        let count = self.some_of(possible);
        for (place, byte) in self.end_of(fd)?.incoming.drain(..count).enumerate() {
            put(place, byte);
        }
        Ok(count)
    }

    /// What epoll would say: readable, writable.
    fn readiness(&self, fd: RawFd) -> (bool, bool) {
        match self.nodes.get(&fd) {
            Some(Node::Stream(end)) => {
                let Some(end) = self.ends.get(end) else {
                    return (true, true);
                };
                let room = match self.ends.get(&end.peer) {
                    Some(peer) => peer.incoming.len() < self.buffer_bytes,
                    None => true,
                };
                let broken = end.broken.is_some();
                let readable = broken || end.incoming_over || !end.incoming.is_empty();
                (readable, broken || end.outgoing_over || room)
            }
            Some(Node::Listener { backlog }) => (!backlog.is_empty(), false),
            Some(Node::File) | None => (false, false),
        }
    }

    fn collect_ready(&mut self, events: &mut Events) {
        let capacity = events.list.capacity();
        let after = (Bound::Excluded(self.reported_last), Bound::Unbounded);
        let before = (Bound::Unbounded, Bound::Included(self.reported_last));
        let order: Vec<_> = self
            .registrations
            .range(after)
            .chain(self.registrations.range(before))
            .map(|(fd, registration)| (*fd, *registration))
            .collect();
        for (fd, (interest, token)) in order {
            if events.list.len() == capacity {
                break;
            }
            let (mut readable, mut writable) = self.readiness(fd);
            if self.chance(self.trouble.spurious_per_mille) {
                (readable, writable) = (true, true);
            }
            readable &= interest.contains(Interest::READABLE);
            writable &= interest.contains(Interest::WRITABLE);
            if readable || writable {
                events.list.push(Event { token, readable, writable });
                self.reported_last = fd;
            }
        }
    }

    fn new_connection(&mut self) -> (EndId, EndId) {
        let (a, b) = (EndId(self.next_end), EndId(self.next_end + 1));
        self.next_end += 2;
        for (end, peer) in [(a, b), (b, a)] {
            let end_state =
                End { peer, incoming: VecDeque::new(), incoming_over: false, outgoing_over: false, broken: None };
            self.ends.insert(end, end_state);
        }
        (a, b)
    }

    fn adopt(&mut self, number: &OwnedFd, node: Node) {
        let fd = number.as_raw_fd();
        // Whoever had the number before has lost it.
        self.forget(fd);
        self.nodes.insert(fd, node);
    }

    fn forget(&mut self, fd: RawFd) {
        self.registrations.remove(&fd);
        self.faults.retain(|(faulty, _), _| *faulty != fd);
        match self.nodes.remove(&fd) {
            Some(Node::Stream(end)) => self.hang_up(end),
            Some(Node::Listener { backlog }) => {
                for end in backlog {
                    self.hang_up(end);
                }
            }
            Some(Node::File) | None => {}
        }
    }

    fn hang_up(&mut self, end: EndId) {
        let Some(end) = self.ends.remove(&end) else {
            return;
        };
        if let Some(peer) = self.ends.get_mut(&end.peer) {
            peer.incoming_over = true;
            // As TCP does: closing with unread data is a reset, not an end.
            if !end.incoming.is_empty() {
                peer.broken = Some(Errno::CONNRESET);
            }
        }
    }
}

impl Simulation {
    pub(crate) fn new(world: Arc<World>) -> Simulation {
        Simulation(world)
    }

    /// Two connected sockets.
    pub fn pair(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let (a, b) = (placeholder()?, placeholder()?);
        self.0.change(|state| {
            let (end_a, end_b) = state.new_connection();
            state.adopt(&a, Node::Stream(end_a));
            state.adopt(&b, Node::Stream(end_b));
        });
        Ok((a, b))
    }

    pub fn listener(&self) -> io::Result<OwnedFd> {
        let listener = placeholder()?;
        self.0.change(|state| state.adopt(&listener, Node::Listener { backlog: VecDeque::new() }));
        Ok(listener)
    }

    /// A new client of `listener`; the other end waits in the backlog.
    pub fn connect(&self, listener: RawFd) -> io::Result<OwnedFd> {
        let client = placeholder()?;
        self.0.change(|state| {
            if !matches!(state.nodes.get(&listener), Some(Node::Listener { .. })) {
                return Err(Errno::CONNREFUSED.into());
            }
            let (ours, theirs) = state.new_connection();
            state.adopt(&client, Node::Stream(ours));
            if let Some(Node::Listener { backlog }) = state.nodes.get_mut(&listener) {
                backlog.push_back(theirs);
            }
            Ok(client)
        })
    }

    /// Something that cannot be watched.
    pub fn regular_file(&self) -> io::Result<OwnedFd> {
        let file = placeholder()?;
        self.0.change(|state| state.adopt(&file, Node::File));
        Ok(file)
    }

    /// The other end of `fd` breaks the connection. What had arrived can still be read; then the error comes, once.
    pub fn reset_by_peer(&self, fd: RawFd) {
        self.0.change(|state| {
            let Ok(end) = state.end_of(fd) else { return };
            end.broken = Some(Errno::CONNRESET);
            let peer = end.peer;
            state.ends.remove(&peer);
        });
    }

    /// The next such call on `fd` fails with this error number; several orders are served in turn.
    pub fn fail_next(&self, fd: RawFd, call: Call, errno: i32) {
        let errno = Errno::from_raw_os_error(errno);
        self.0.change(|state| state.faults.entry((fd, call)).or_default().push_back(errno));
    }

    /// A signal handler runs during the next wait.
    pub fn interrupt_next_wait(&self) {
        self.0.change(|state| state.interrupts += 1);
    }

    pub fn set_trouble(&self, trouble: Trouble) {
        self.0.change(|state| state.trouble = trouble);
    }

    /// How many bytes a socket holds for its reader before the writer has to wait.
    pub fn set_buffer_bytes(&self, buffer_bytes: usize) {
        self.0.change(|state| state.buffer_bytes = buffer_bytes.max(1));
    }

    /// Lets time pass without a wait. What was scripted for it happens at the next wait.
    pub fn advance(&self, duration: Duration) {
        self.0.change(|state| state.now = state.now + duration);
    }

    /// Scripts `action` for a point in time. It happens during a wait, in the order (time, scripting).
    pub fn at(&self, time: Time, action: impl FnOnce(&Simulation) + Send + 'static) {
        self.0.change(|state| state.add_to_script(time, Box::new(action)));
    }

    /// As [`at`](Self::at), counted from now.
    pub fn after(&self, delay: Duration, action: impl FnOnce(&Simulation) + Send + 'static) {
        self.0.change(|state| state.add_to_script(state.now + delay, Box::new(action)));
    }

    pub fn now(&self) -> Time {
        self.0.now()
    }

    /// Sends from a scripted end, without faults and short writes; says how much the buffer took.
    pub fn send(&self, fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
        self.0.change(|state| {
            let count = state.room(fd, bytes.len())?;
            let peer = state.peer_of(fd)?;
            if let Some(peer) = state.ends.get_mut(&peer) {
                peer.incoming.extend(&bytes[..count]);
            }
            Ok(count)
        })
    }

    /// What arrived at a scripted end.
    pub fn received(&self, fd: RawFd) -> Vec<u8> {
        self.0.change(|state| state.end_of(fd).map(|end| end.incoming.drain(..).collect()).unwrap_or_default())
    }

    /// Closes a scripted end.
    pub fn close(&self, fd: OwnedFd) {
        self.0.close(fd.as_raw_fd());
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("Simulation")
            .field("now", &state.now)
            .field("sockets", &state.nodes.len())
            .finish_non_exhaustive()
    }
}

/// A descriptor of its own that means nothing to the kernel.
fn placeholder() -> io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}
