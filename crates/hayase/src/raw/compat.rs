//! What differs between Python versions, and names that PyO3's ffi lacks.

use pyo3::{PyErr, Python, ffi};

use super::obj::Obj;

// Everything of `raw` and every cell relies on the GIL (see `cell.rs`), and reference counts lie elsewhere there.
#[cfg(Py_GIL_DISABLED)]
compile_error!(
    "hayase needs the GIL, and this is a free-threaded build of Python: \
     use the regular build (python3.14, not python3.14t)"
);

unsafe extern "C" {
    /// Gives a dead object (from a freelist) its first reference again. Exported by every supported version.
    pub(crate) fn _Py_NewReference(object: *mut ffi::PyObject);
    /// Shortens a `bytes` that nobody else has seen yet. Exported by every supported version.
    pub(crate) fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> std::ffi::c_int;
    /// A `types.MethodType`: `function` bound to `instance`. Part of the C-API of every supported version.
    pub(crate) fn PyMethod_New(function: *mut ffi::PyObject, instance: *mut ffi::PyObject) -> *mut ffi::PyObject;
    /// `types.MethodType` itself.
    pub(crate) static mut PyMethod_Type: ffi::PyTypeObject;
}

/// Takes the exception out of the thread state, if one is set.
pub(crate) fn take_raised(py: Python<'_>) -> Option<PyErr> {
    PyErr::take(py)
}

/// Puts back what [`take_raised`] took.
pub(crate) fn restore_raised(py: Python<'_>, pending: Option<PyErr>) {
    if let Some(err) = pending {
        err.restore(py);
    }
}

/// Takes the exception (an instance, with its traceback) out of the thread state of the caller, who holds the GIL.
pub(crate) fn take_exception() -> Option<Obj> {
    #[cfg(Py_3_12)]
    // SAFETY: the call gives its reference to us, or null.
    unsafe {
        Obj::from_owned_opt(ffi::PyErr_GetRaisedException())
    }
    #[cfg(not(Py_3_12))]
    {
        let (mut class, mut value, mut traceback) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the three references become ours; normalising replaces them in place (all null: it does nothing); the
        // class is no longer needed.
        unsafe {
            ffi::PyErr_Fetch(&mut class, &mut value, &mut traceback);
            ffi::PyErr_NormalizeException(&mut class, &mut value, &mut traceback);
            if !traceback.is_null() {
                ffi::PyException_SetTraceback(value, traceback);
            }
            drop(Obj::from_owned_opt(class));
            drop(Obj::from_owned_opt(traceback));
            Obj::from_owned_opt(value)
        }
    }
}

/// Puts `exception`, an instance, into the thread state of the caller as it is.
pub(crate) fn put_exception(exception: Obj) {
    #[cfg(Py_3_12)]
    // SAFETY: an exception instance whose reference is given away.
    unsafe {
        ffi::PyErr_SetRaisedException(exception.into_ptr());
    }
    #[cfg(not(Py_3_12))]
    // SAFETY: class, instance and traceback are new references that the call takes.
    unsafe {
        let class = Obj::from_borrowed(exception.type_ptr().cast());
        let traceback = ffi::PyException_GetTraceback(exception.as_ptr());
        ffi::PyErr_Restore(class.into_ptr(), exception.into_ptr(), traceback);
    }
}

/// Puts an exception into the thread state that somebody keeps in three parts, as everybody did before 3.12.
///
/// # Safety
/// Class, value and traceback are owned references, which are given away; value and traceback may be null.
pub(super) unsafe fn restore_parts(
    class: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    traceback: *mut ffi::PyObject,
) {
    #[allow(deprecated)] // there is no other way to give the parts, and it stays in the stable ABI
    // SAFETY: by the caller.
    unsafe {
        ffi::PyErr_Restore(class, value, traceback);
    }
}

/// `format_helpers._format_callback_source` has a keyword `debug`.
pub(crate) const CALLBACK_SOURCE_HAS_DEBUG: bool = cfg!(Py_3_13);

/// `loop.create_task` hands every keyword on (to the task, or to the task factory) instead of knowing two.
pub(crate) const CREATE_TASK_PASSES_KEYWORDS: bool = cfg!(Py_3_14);

/// The exception handler runs in the context of the task, future or handle that failed.
pub(crate) const EXCEPTION_HANDLER_RUNS_IN_CONTEXT: bool = cfg!(Py_3_12);

/// Clears the weak references to a dying object, if there are any.
///
/// # Safety
/// `object` is in its dealloc; its list of weak references is a word at `offset` (negative: before the header).
#[inline]
pub(crate) unsafe fn clear_weak_references(object: *mut ffi::PyObject, offset: ffi::Py_ssize_t) {
    // SAFETY: the interpreter's own offset for this type.
    unsafe {
        if offset != 0 && !(*object.cast::<u8>().offset(offset).cast::<*mut ffi::PyObject>()).is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
    }
}

/// Where asyncio keeps the running task: a dict by loop (`_asyncio._current_tasks`), or the thread state behind
/// `_asyncio._swap_current_task`.
pub(crate) const CURRENT_TASKS_IS_DICT: bool = cfg!(not(Py_3_14));

/// Where asyncio keeps all tasks: a `WeakSet`, or a linked list behind `_asyncio._register_task`.
pub(crate) const ALL_TASKS_IS_WEAK_SET: bool = cfg!(not(Py_3_14));

/// Name of that `WeakSet` in `asyncio.tasks`.
pub(crate) const ALL_TASKS_NAME: &str = if cfg!(Py_3_12) { "_scheduled_tasks" } else { "_all_tasks" };

/// `Task(eager_start=...)` and `Task.get_context()` exist.
pub(crate) const EAGER_TASKS: bool = cfg!(Py_3_12);

/// A task that was done at once, because it started eagerly, is one of its `TaskGroup` until the next turn.
pub(crate) const GROUPS_WAIT_FOR_DONE_TASKS: bool = cfg!(Py_3_14);

/// `set_exception(StopIteration())` stores a RuntimeError instead of raising TypeError.
pub(crate) const STOP_ITERATION_IS_WRAPPED: bool = cfg!(Py_3_13);

/// `uncancel()` down to zero also takes back a cancellation that has not been delivered.
pub(crate) const UNCANCEL_TAKES_BACK: bool = cfg!(Py_3_13);

/// Futures know who awaits them (`asyncio.capture_call_graph`).
pub(crate) const CALL_GRAPH: bool = cfg!(Py_3_14);

/// `Future.__init__` a second time is an error, and `Task(context=...)` must be a `Context`.
pub(crate) const STRICT_INIT: bool = cfg!(Py_3_15);

/// Function of `asyncio.events` that finds the loop of a future made without one.
pub(crate) const GET_EVENT_LOOP_NAME: &str = if cfg!(Py_3_12) { "get_event_loop" } else { "_get_event_loop" };

/// `throw(type, value, traceback)` of awaitables warns.
pub(crate) const THROW_WITH_THREE_ARGUMENTS_WARNS: bool = cfg!(Py_3_12);

/// Not a sub-interpreter. PyO3 keeps those out that check extensions; older ones, with a shared GIL, do not.
pub(crate) fn is_main_interpreter(_py: Python<'_>) -> bool {
    // SAFETY: the GIL is held, so the thread has an interpreter.
    unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) == 0 }
}

/// The interpreter is shutting down.
pub(crate) fn is_finalizing() -> bool {
    // SAFETY: only reads a flag.
    #[cfg(Py_3_13)]
    unsafe {
        ffi::Py_IsFinalizing() != 0
    }
    #[cfg(not(Py_3_13))]
    {
        unsafe extern "C" {
            fn _Py_IsFinalizing() -> std::ffi::c_int;
        }
        // SAFETY: as above; exported by these versions.
        unsafe { _Py_IsFinalizing() != 0 }
    }
}

/// `threading.get_ident()`
#[allow(clippy::useless_conversion)] // `unsigned long` has 32 bits on Windows
pub(crate) fn thread_id() -> u64 {
    // SAFETY: only asks the thread.
    u64::from(unsafe { ffi::PyThread_get_thread_ident() })
}

/// Writes the reference count of an object that nobody else can reach.
///
/// # Safety
/// `object` is in its dealloc, on an interpreter with the GIL; `count` is small.
pub(crate) unsafe fn set_count(object: *mut ffi::PyObject, count: u32) {
    const { assert!(cfg!(target_endian = "little")) };
    // SAFETY: the count is the first word of an object, on 3.14 its lower half; the upper half is zero or flags that
    // stay.
    unsafe { object.cast::<u32>().write(count) };
}

/// `Server.wait_closed()` of a closed server returns at once, whatever connections there are (until 3.12.1).
pub(crate) const WAIT_CLOSED_IGNORES_CLIENTS: bool = cfg!(not(Py_3_12));

/// What `transport.write()` asks for, in its TypeError.
pub(crate) const WRITE_WANTS: &str =
    if cfg!(Py_3_14) { "a bytes, bytearray, or memoryview object" } else { "a bytes-like object" };

/// A file sent by the kernel stands at the end of what was sent even if that was nothing.
pub(crate) const SENDFILE_MOVES_WITHOUT_SENDING: bool = cfg!(Py_3_14);

/// What `StreamReader.read()` says of a number that is none.
pub(crate) const READ_WANTS: &str = if cfg!(Py_3_15) {
    "n must be an integer or None"
} else {
    "slice indices must be integers or None or have an __index__ method"
};

/// A `TaskGroup` takes the cancellation of its parent back when its tasks are done, not before it waits for them; gives
/// the parent's own one on; closes a coroutine that it refuses; and hands names to the loop.
pub(crate) const TASK_GROUPS_AS_OF_3_13: bool = cfg!(Py_3_13);

/// A `TaskGroup` can be cancelled, and lets a `GeneratorExit` of its block through.
pub(crate) const TASK_GROUPS_AS_OF_3_15: bool = cfg!(Py_3_15);

/// `TaskGroup.create_task` with its signature.
pub(crate) const TASK_GROUP_CREATE_TASK_DOC: &std::ffi::CStr = if CREATE_TASK_PASSES_KEYWORDS {
    c"create_task($self, /, coro, **kwargs)\n--\n\nStart a task in this group and return it."
} else {
    c"create_task($self, /, coro, *, name=None, context=None)\n--\n\nStart a task in this group and return it."
};

/// What `Barrier` asks for, in its ValueError.
pub(crate) const BARRIER_WANTS: &str = if cfg!(Py_3_14) { "parties must be >= 1" } else { "parties must be > 0" };

/// `as_completed` begins when it is called, not when it is iterated over, and can be iterated over asynchronously.
pub(crate) const AS_COMPLETED_BEGINS_AT_ONCE: bool = cfg!(Py_3_13);

/// What `as_completed` asks for, in its TypeError.
pub(crate) const AS_COMPLETED_WANTS: &str =
    if cfg!(Py_3_13) { "expects an iterable of awaitables" } else { "expect an iterable of futures" };

/// A cancelled `Server.serve_forever()` closes the connections too.
pub(crate) const SERVE_FOREVER_CLOSES_CLIENTS: bool = cfg!(Py_3_14);

/// Errors of `bind` are quoted with their number, and an address that is not available is skipped by `create_server`.
pub(crate) const BIND_ERRORS_AS_OF_3_13: bool = cfg!(Py_3_13);

/// `create_connection` that collected no error says so with a TimeoutError.
pub(crate) const CONNECT_WITHOUT_ERRORS_TIMES_OUT: bool = cfg!(Py_3_14);

/// Nothing but the base's own methods, all of which we override, fills the fields of `_asyncio.Future` and
/// `_asyncio.Task`. (From 3.14 on `future_add_to_awaited_by` does.) Somebody who calls the base's `__init__` on an
/// object of ours gets fields that the collector does not look into: at worst a leak.
pub(crate) const BASE_STAYS_EMPTY: bool = cfg!(not(Py_3_14));

/// Visits the instance dict.
///
/// # Safety
/// Called by `tp_traverse` of `object` with its arguments; `offset` is its type's `tp_dictoffset`.
pub(crate) unsafe fn visit_dict(
    object: *mut ffi::PyObject,
    offset: ffi::Py_ssize_t,
    visit: ffi::visitproc,
    arg: *mut std::ffi::c_void,
) -> std::ffi::c_int {
    #[cfg(Py_3_13)]
    {
        unsafe extern "C" {
            fn PyObject_VisitManagedDict(
                object: *mut ffi::PyObject,
                visit: ffi::visitproc,
                arg: *mut std::ffi::c_void,
            ) -> std::ffi::c_int;
        }
        let _ = offset;
        // SAFETY: the base's instances have a managed dict from 3.13 on; the function looks for itself.
        unsafe { PyObject_VisitManagedDict(object, visit, arg) }
    }
    #[cfg(not(Py_3_13))]
    {
        if offset <= 0 {
            return 0;
        }
        // SAFETY: before 3.13 the dict is a word of the struct, null or a live dict.
        unsafe {
            let dict = *object.cast::<u8>().offset(offset).cast::<*mut ffi::PyObject>();
            if dict.is_null() { 0 } else { visit(dict, arg) }
        }
    }
}

/// A Unix server removes the file of its socket when it is closed.
pub(crate) const UNIX_SERVER_REMOVES_ITS_FILE: bool = cfg!(Py_3_13);

/// `sendto(b"")` sends an empty datagram; before, it did nothing.
pub(crate) const EMPTY_DATAGRAMS_ARE_SENT: bool = cfg!(Py_3_13);

/// What a queued datagram counts in the write buffer besides its bytes.
pub(crate) const DATAGRAM_HEADER_BYTES: usize = if cfg!(Py_3_13) { 8 } else { 0 };

/// A socket given to `create_datagram_endpoint` may have any type but SOCK_STREAM, and is called a datagram socket.
pub(crate) const DATAGRAM_SOCKETS_OF_ANY_TYPE: bool = cfg!(Py_3_13);

/// `transport.writelines()` is `write(b"".join(...))`, errors included.
pub(crate) const WRITELINES_JOINS: bool = cfg!(not(Py_3_12));

/// A socket that the program gave to `create_connection` is closed if no transport comes of it.
pub(crate) const CONNECT_CLOSES_SOCK_WITHOUT_TRANSPORT: bool = cfg!(Py_3_14);

/// `call_soon_threadsafe` gives a `_ThreadSafeHandle`.
pub(crate) const THREAD_SAFE_HANDLES: bool = cfg!(Py_3_14);

/// A TLS transport says that it is closing when the transport below it is.
pub(crate) const TLS_CLOSES_WITH_THE_TRANSPORT_BELOW: bool = cfg!(Py_3_14);

/// `abort()` of a TLS transport calls `_force_close(None)` of the transport below; before, `abort()`.
pub(crate) const TLS_ABORTS_BY_FORCE_CLOSE: bool = cfg!(Py_3_13);

/// `sleep(nan)` is a ValueError.
pub(crate) const SLEEP_REFUSES_NAN: bool = cfg!(Py_3_13);

/// An error that is raised while a timeout's cancellation is handled gets a TimeoutError as its context.
pub(crate) const TIMEOUT_IS_PUT_INTO_CONTEXTS: bool = cfg!(Py_3_13);

/// What `await` says of an object that is no awaitable.
pub(crate) fn not_awaitable(class: &str) -> String {
    if cfg!(Py_3_14) {
        format!("'{class}' object can't be awaited")
    } else {
        format!("object {class} can't be used in 'await' expression")
    }
}

/// `gather` looks at children that are done already (an eager task may be) before it returns, not in a later turn.
pub(crate) const GATHER_TAKES_DONE_CHILDREN_AT_ONCE: bool = cfg!(Py_3_12);

/// An exception of a future whose shield was cancelled is reported when it comes, not taken for seen.
pub(crate) const SHIELD_REPORTS_LOST_EXCEPTIONS: bool = cfg!(Py_3_14);

/// The dictionary of an instance is made with it, not when it is first wanted.
pub(crate) const DICT_IS_MADE_WITH_THE_INSTANCE: bool = cfg!(not(Py_3_12));
