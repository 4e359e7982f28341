//! Objects of the standard library, looked up once per process.
//!
//! Only what nobody replaces belongs here. What programs patch (`socket.getaddrinfo`, `logging`'s loggers,
//! `asyncio`'s functions) is looked up at each use.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyAny;

use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult};

macro_rules! imports {
    ($($(#[$doc:meta])* $name:ident = $module:literal . $attribute:literal;)*) => {
        $(
            $(#[$doc])*
            pub(crate) fn $name<'py>(py: Python<'py>) -> PyResult<&'py Bound<'py, PyAny>> {
                static CELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
                CELL.import(py, $module, $attribute)
            }
        )*
    };
}

imports! {
    sorted = "builtins"."sorted";
    format_list = "traceback"."format_list";
    handle_class = "asyncio.events"."Handle";
    timer_handle_class = "asyncio.events"."TimerHandle";
    thread_safe_handle_class = "asyncio.events"."_ThreadSafeHandle";
    format_callback_source = "asyncio.format_helpers"."_format_callback_source";
    extract_stack = "asyncio.format_helpers"."extract_stack";
    is_coroutine = "asyncio.coroutines"."iscoroutine";
    is_awaitable = "inspect"."isawaitable";
    is_coroutine_function = "inspect"."iscoroutinefunction";
    is_future = "asyncio.futures"."isfuture";
    convert_future_exception = "asyncio.futures"."_convert_future_exc";
    wrap_future = "asyncio.futures"."wrap_future";
    /// asyncio's, also after `hayase.install()`.
    stock_ensure_future = "hayase.tasks"."_asyncio_ensure_future";
    get_event_loop = "hayase.policy"."get_event_loop";
    release_waiter = "asyncio.tasks"."_release_waiter";
    log_on_exception = "asyncio.tasks"."_log_on_exception";
    /// Ours.
    queue = "hayase._core"."Queue";
    get_ident = "threading"."get_ident";
    set_wakeup_fd = "signal"."set_wakeup_fd";
    make_lock = "threading"."Lock";
    weak_set = "weakref"."WeakSet";
    cancelled_error = "asyncio.exceptions"."CancelledError";
    incomplete_read_error = "asyncio.exceptions"."IncompleteReadError";
    limit_overrun_error = "asyncio.exceptions"."LimitOverrunError";
    broken_barrier_error = "asyncio.exceptions"."BrokenBarrierError";
    timeout_state = "asyncio.timeouts"."_State";
    barrier_state = "asyncio.locks"."_BarrierState";
    invalid_state_error = "asyncio.exceptions"."InvalidStateError";
    traceback_extract_stack = "traceback"."extract_stack";
    future_repr = "asyncio.base_futures"."_future_repr";
    task_repr = "asyncio.base_tasks"."_task_repr";
    task_get_stack = "asyncio.base_tasks"."_task_get_stack";
    task_print_stack = "asyncio.base_tasks"."_task_print_stack";
    future_base = "_asyncio"."Future";
    task_base = "_asyncio"."Task";
    current_tasks = "_asyncio"."_current_tasks";
    current_task = "asyncio.tasks"."current_task";
    /// Since 3.12.
    eager_task_factory = "asyncio.tasks"."eager_task_factory";
    cancel_and_wait = "asyncio.tasks"."_cancel_and_wait";
    set_result_unless_cancelled = "asyncio.futures"."_set_result_unless_cancelled";
    round = "builtins"."round";
    /// Not `copyreg.__newobj__`: pickle compares its class with `__class__`.
    new_object = "hayase._compat"."new_object";
    gather_elsewhere = "hayase.tasks"."_gather_elsewhere";
    shield_elsewhere = "hayase.tasks"."_shield_elsewhere";
    running_loop = "_asyncio"."_get_running_loop";
    deque = "collections"."deque";
    heappush = "_heapq"."heappush";
    heappop = "_heapq"."heappop";
    queue_empty = "asyncio.queues"."QueueEmpty";
    queue_full = "asyncio.queues"."QueueFull";
    /// asyncio's, or before 3.13 one of ours.
    queue_shut_down = "hayase.queues"."QueueShutDown";
    enter_task = "_asyncio"."_enter_task";
    leave_task = "_asyncio"."_leave_task";
    swap_current_task = "_asyncio"."_swap_current_task";
    register_task = "_asyncio"."_register_task";
    unregister_task = "_asyncio"."_unregister_task";
    add_to_awaited_by = "_asyncio"."future_add_to_awaited_by";
    discard_from_awaited_by = "_asyncio"."future_discard_from_awaited_by";
    unsupported_operation = "io"."UnsupportedOperation";
    sendfile_not_available_error = "asyncio.exceptions"."SendfileNotAvailableError";
    af_inet = "socket"."AF_INET";
    af_inet6 = "socket"."AF_INET6";
    sock_stream = "socket"."SOCK_STREAM";
    sock_dgram = "socket"."SOCK_DGRAM";
    socket_class = "socket"."socket";
    gai_error = "socket"."gaierror";
    exception_group = "builtins"."ExceptionGroup";
    base_exception_group = "builtins"."BaseExceptionGroup";
    /// A subclass of `Transport`: what asyncio's own transports are, and its `sendfile` wants.
    transport_class = "asyncio.transports"."_FlowControlMixin";
    read_transport_class = "asyncio.transports"."ReadTransport";
    buffered_protocol_class = "asyncio.protocols"."BufferedProtocol";
    transport_socket_class = "asyncio.trsock"."TransportSocket";
    server_class = "asyncio.base_events"."Server";
    submit_to_threads = "hayase.executors"."submit";
    simple_queue = "_queue"."SimpleQueue";
    simple_queue_empty = "_queue"."Empty";
    thread_pool_executor = "concurrent.futures"."ThreadPoolExecutor";
    memory_bio = "ssl"."MemoryBIO";
    ssl_object_class = "ssl"."SSLObject";
    ssl_context_class = "ssl"."SSLContext";
    ssl_error = "ssl"."SSLError";
    ssl_want_read_error = "ssl"."SSLWantReadError";
    ssl_syscall_error = "ssl"."SSLSyscallError";
    certificate_error = "ssl"."SSLCertVerificationError";
    ssl_protocol_class = "asyncio.sslproto"."SSLProtocol";
    ssl_transport_class = "asyncio.sslproto"."_SSLProtocolTransport";
    stream_reader_protocol_class = "asyncio.streams"."StreamReaderProtocol";
}

/// What datagram transports are instances of: of asyncio's `DatagramTransport`, and of `Transport` as its own are.
pub(crate) fn datagram_transport_class(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static CELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CELL.get_or_try_init(py, || {
        let bases = (transport_class(py)?, py.import("asyncio.transports")?.getattr("DatagramTransport")?);
        let namespace = pyo3::types::PyDict::new(py);
        namespace.set_item("__module__", "hayase._core")?;
        let class = py.get_type::<pyo3::types::PyType>().call1(("DatagramTransport", bases, namespace))?;
        Ok::<_, PyErr>(class.unbind())
    })?;
    Ok(class.bind(py).clone())
}

/// The module `asyncio.base_events`, which stays reachable when the interpreter ends and imports no longer work.
pub(crate) fn base_events(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let module =
        CELL.get_or_try_init(py, || py.import("asyncio.base_events").map(|module| module.into_any().unbind()))?;
    Ok(module.bind(py))
}

/// Imports now what a report needs, because a report may be the last thing that an interpreter does.
pub(crate) fn prepare_reports(py: Python<'_>) -> PyResult<()> {
    base_events(py)?;
    sorted(py)?;
    format_list(py)?;
    format_callback_source(py)?;
    Ok(())
}

/// As a raw reference, for code below PyO3.
pub(crate) fn raw(py: Python<'_>, import: PyResult<&Bound<'_, PyAny>>) -> RawResult<Obj> {
    match import {
        Ok(object) => Ok(Obj::from_any(object)),
        Err(err) => Err(Raised::from_err(py, err)),
    }
}
