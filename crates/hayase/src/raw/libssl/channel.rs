//! Ciphertext between OpenSSL and a transport: the `BIO` that takes the place of the two `MemoryBIO`s.
//!
//! What the peer sent is read from a buffer of ours, or straight from where it was received; what is due to the peer is
//! appended to another. Nothing here waits, calls Python or panics: OpenSSL's C frames are below.
//!
//! Must stay true
//! - One `SSL` is used by one thread at a time. That is OpenSSL's own rule, so its callbacks never meet each other.
//! - The channel is owned twice, by the `BIO` and by the transport's engine. Whoever lives longer finds it intact:
//!   programs keep the `ssl.SSLObject` of a connection that is gone.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_char, c_int, c_long, c_ulong, c_void};
use std::sync::Arc;

use super::symbols::{self, Bio, BioMethod, Functions};

/// Both directions of one connection.
pub(super) struct Channel {
    /// Received and not read by OpenSSL yet; what lies before `position` has been read.
    incoming: UnsafeCell<Vec<u8>>,
    position: Cell<usize>,
    /// More of it, where it was received, for the length of one call: behind `incoming`.
    lent: Cell<(*const u8, usize)>,
    /// Due to the peer.
    outgoing: UnsafeCell<Vec<u8>>,
    /// The transport is gone: what is written now goes nowhere.
    orphaned: Cell<bool>,
    /// Reading fails with the first and the last of OpenSSL's error codes (see `failure.rs`).
    failure: Cell<Option<(c_ulong, c_ulong)>>,
}

impl Channel {
    #[allow(clippy::arc_with_non_send_sync)] // counted down by `destroy`, in whatever thread OpenSSL calls it
    pub(super) fn new() -> Arc<Channel> {
        Arc::new(Channel {
            incoming: UnsafeCell::new(Vec::new()),
            position: Cell::new(0),
            lent: Cell::new((std::ptr::null(), 0)),
            outgoing: UnsafeCell::new(Vec::new()),
            orphaned: Cell::new(false),
            failure: Cell::new(None),
        })
    }

    /// From now on, reading fails with these codes in OpenSSL's queue.
    pub(super) fn fail_with(&self, codes: (c_ulong, c_ulong)) {
        self.failure.set(Some(codes));
    }

    /// A `BIO` that reads and writes this channel and owns a share of it; null without memory.
    pub(super) fn make_bio(self: &Arc<Channel>, method: *const BioMethod) -> *mut Bio {
        // SAFETY: `method` was made by `make_method` and lives for ever. The pointer to the share stays valid until
        // `destroy` gives it back, which OpenSSL calls once, when nobody holds the `BIO` any more.
        unsafe {
            let functions = super::functions();
            let bio = (functions.BIO_new)(method);
            if !bio.is_null() {
                (functions.BIO_set_data)(bio, Arc::into_raw(Arc::clone(self)).cast_mut().cast());
                (functions.BIO_set_init)(bio, 1);
            }
            bio
        }
    }

    /// Keeps a copy until OpenSSL reads it.
    pub(super) fn feed(&self, ciphertext: &[u8]) {
        // SAFETY: no OpenSSL call is under way in this thread that holds a reference into the buffer: the callbacks
        // below take and end theirs within one call (see the head for other threads).
        let incoming = unsafe { &mut *self.incoming.get() };
        let position = self.position.replace(0);
        incoming.drain(..position);
        incoming.extend_from_slice(ciphertext);
    }

    /// There is nothing to do until the peer sends more: large buffers that are empty are given back.
    pub(super) fn settle(&self) {
        // SAFETY: as in `feed`.
        let incoming = unsafe { &mut *self.incoming.get() };
        if incoming.capacity() > KEPT_CAPACITY_MAX && self.position.get() == incoming.len() {
            self.position.set(0);
            *incoming = Vec::new();
        }
    }

    /// Lets OpenSSL read `ciphertext` in place while `f` runs; keeps a copy of what it leaves.
    pub(super) fn lend<R>(&self, ciphertext: &[u8], f: impl FnOnce() -> R) -> R {
        /// Takes the slice back even if `f` panics.
        struct TakeBack<'a>(&'a Channel);
        impl Drop for TakeBack<'_> {
            fn drop(&mut self) {
                self.0.keep_lent();
            }
        }
        // Inside a callback of an outer call that lends already: what is lent there comes first.
        self.keep_lent();
        self.lent.set((ciphertext.as_ptr(), ciphertext.len()));
        let _take_back = TakeBack(self);
        f()
    }

    /// Copies what is left of the lent slice; nothing is lent any more.
    fn keep_lent(&self) {
        let (start, len) = self.lent.replace((std::ptr::null(), 0));
        if len > 0 {
            // SAFETY: the rest of the slice that the innermost `lend` under way borrows: each takes its own back before
            // it returns.
            self.feed(unsafe { std::slice::from_raw_parts(start, len) });
        }
    }

    pub(super) fn incoming_len(&self) -> usize {
        // SAFETY: as in `feed`; only the length is read.
        unsafe { (*self.incoming.get()).len() - self.position.get() + self.lent.get().1 }
    }

    pub(super) fn outgoing_len(&self) -> usize {
        // SAFETY: as in `feed`; only the length is read.
        unsafe { (*self.outgoing.get()).len() }
    }

    /// What is due to the peer, taken out.
    pub(super) fn take_outgoing(&self) -> Vec<u8> {
        // SAFETY: as in `feed`.
        unsafe { std::mem::take(&mut *self.outgoing.get()) }
    }

    /// Whether what will be written needs a buffer first.
    pub(super) fn wants_buffer(&self) -> bool {
        // SAFETY: as in `feed`; only the capacity is read.
        unsafe { (*self.outgoing.get()).capacity() == 0 }
    }

    /// An empty buffer for what will be written.
    pub(super) fn give_buffer(&self, buffer: Vec<u8>) {
        // SAFETY: as in `feed`.
        unsafe { *self.outgoing.get() = buffer };
    }

    /// The transport goes; an `ssl.SSLObject` that the program keeps finds nothing to read and nobody to write to.
    pub(super) fn orphan(&self) {
        self.orphaned.set(true);
        self.position.set(0);
        // SAFETY: as in `feed`.
        unsafe {
            *self.incoming.get() = Vec::new();
            *self.outgoing.get() = Vec::new();
        }
    }
}

/// What a connection keeps of a buffer's memory while it has nothing to say. An idle connection shall be cheap.
const KEPT_CAPACITY_MAX: usize = 4 * 1024;

/// How a `BIO` of ours works; made once, lives for ever. Null without memory.
pub(super) fn make_method(functions: &Functions) -> *mut BioMethod {
    // SAFETY: plain calls with a name that ends with zero and functions of the signatures asked for.
    unsafe {
        let kind = (functions.BIO_get_new_index)() | symbols::BIO_TYPE_SOURCE_SINK as c_int;
        let method = (functions.BIO_meth_new)(kind, c"hayase".as_ptr());
        if method.is_null()
            || (functions.BIO_meth_set_read)(method, read) == 0
            || (functions.BIO_meth_set_write)(method, write) == 0
            || (functions.BIO_meth_set_ctrl)(method, control) == 0
            || (functions.BIO_meth_set_destroy)(method, destroy) == 0
        {
            return std::ptr::null_mut();
        }
        method
    }
}

/// The channel of a `BIO` that OpenSSL calls us with.
///
/// # Safety
/// `bio` was made by [`Channel::make_bio`] and is alive.
unsafe fn channel<'a>(bio: *mut Bio) -> &'a Channel {
    // SAFETY: by the caller, the data is the share that `make_bio` put there. It lives as long as the `BIO`.
    unsafe { &*(super::functions().BIO_get_data)(bio).cast::<Channel>() }
}

extern "C" fn read(bio: *mut Bio, buffer: *mut c_char, size: c_int) -> c_int {
    // SAFETY: OpenSSL calls with a live `BIO` of ours and `size` writable bytes.
    unsafe {
        let channel = channel(bio);
        (super::functions().BIO_clear_flags)(bio, symbols::BIO_FLAGS_RWS | symbols::BIO_FLAGS_SHOULD_RETRY);
        if let Some((first, last)) = channel.failure.get() {
            super::failure::put_error(super::functions(), first);
            if last != first {
                super::failure::put_error(super::functions(), last);
            }
            return -1;
        }
        let size = size.max(0) as usize;
        let incoming = &*channel.incoming.get();
        let position = channel.position.get();
        if position < incoming.len() {
            let count = size.min(incoming.len() - position);
            std::ptr::copy_nonoverlapping(incoming.as_ptr().add(position), buffer.cast(), count);
            channel.position.set(position + count);
            return count as c_int;
        }
        let (start, len) = channel.lent.get();
        if len > 0 {
            let count = size.min(len);
            std::ptr::copy_nonoverlapping(start, buffer.cast(), count);
            channel.lent.set((start.add(count), len - count));
            return count as c_int;
        }
        (super::functions().BIO_set_flags)(bio, symbols::BIO_FLAGS_READ | symbols::BIO_FLAGS_SHOULD_RETRY);
        -1
    }
}

extern "C" fn write(bio: *mut Bio, data: *const c_char, size: c_int) -> c_int {
    // SAFETY: OpenSSL calls with a live `BIO` of ours and `size` readable bytes.
    unsafe {
        let channel = channel(bio);
        (super::functions().BIO_clear_flags)(bio, symbols::BIO_FLAGS_RWS | symbols::BIO_FLAGS_SHOULD_RETRY);
        if size > 0 && !channel.orphaned.get() {
            (*channel.outgoing.get()).extend_from_slice(std::slice::from_raw_parts(data.cast(), size as usize));
        }
        size
    }
}

extern "C" fn control(bio: *mut Bio, command: c_int, _number: c_long, _pointer: *mut c_void) -> c_long {
    match command {
        symbols::BIO_CTRL_FLUSH | symbols::BIO_CTRL_DUP => 1,
        // More may always come. asyncio, too, never tells OpenSSL of the end: it aborts or closes itself.
        symbols::BIO_CTRL_EOF => 0,
        // SAFETY: OpenSSL calls with a live `BIO` of ours.
        symbols::BIO_CTRL_PENDING => unsafe { channel(bio) }.incoming_len() as c_long,
        _ => 0,
    }
}

extern "C" fn destroy(bio: *mut Bio) -> c_int {
    // SAFETY: the last act of a live `BIO` of ours: its share of the channel, put there by `make_bio`, is given back.
    unsafe {
        let data: *const Channel = (super::functions().BIO_get_data)(bio).cast();
        if !data.is_null() {
            (super::functions().BIO_set_data)(bio, std::ptr::null_mut());
            drop(Arc::from_raw(data));
        }
    }
    1
}
