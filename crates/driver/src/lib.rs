//! What an event loop needs of the operating system, and nothing of Python.
//!
//! * [`Driver`] — readiness of file descriptors, the clock, sleeping and being woken, and the system calls on sockets.
//!   Two backends: epoll, and a simulation in memory with virtual time and faults. `backend/mod.rs` holds their contract.
//! * [`TimerQueue`] — what is due when.
//! * [`Waker`] — the only part that other threads and signal handlers touch.
//! * [`pipe_kind`], [`open_child`] — what a descriptor is, how a child ended.
//! * [`BlockingPool`], [`getaddrinfo`] — what the kernel cannot do without blocking.
//! * [`ReadBuffer`], [`WriteQueue`], [`FlowControl`] — bytes on their way in and out.
//!
//! The arrows point one way: `driver → backend → sys`. Every unsafe line is in `sys`.

mod backend;
mod blocking;
mod buffers;
mod children;
mod driver;
mod events;
mod net;
mod pipes;
mod sys;
mod time;
mod timers;
mod waker;

pub use backend::sim::{Call, Simulation, Trouble};
pub use blocking::{
    AddrInfo, BlockingPool, GaiError, getaddrinfo, getnameinfo, socket_addr_from_bytes, socket_addr_to_bytes,
};
pub use buffers::{
    FlowChange, FlowControl, IO_SLICES_MAX, IoSlices, LimitsError, Progress, ReadBuffer, Scan, Separators,
    SeparatorsError, WriteQueue,
};
pub use children::{open_child, reap_child};
pub use driver::Driver;
pub use events::{Event, Events, Interest, Token};
pub use net::{
    bind, connect, connect_unix, local_address, peer_address, peer_credentials, set_nodelay, stream_socket,
    unix_stream_socket,
};
pub use pipes::{PipeKind, duplicate, pipe_kind, set_nonblocking};
pub use sys::address::Address;
pub use time::Time;
pub use timers::{TimerKey, TimerQueue};
pub use waker::Waker;
