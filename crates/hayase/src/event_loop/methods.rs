//! The methods of the loop as Python sees them: the list, each body a few lines.
//!
//! Those that run once per callback or task are in `schedule.rs`.

use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyTuple, PyType};

use super::pipes::Direction;
use super::watchers::{self, Side};
use super::{
    Arguments, Loop, connect, datagram, debug, exceptions, executor, pipes, resolve, run, serve, signals, sockets,
    start_tls, unix,
};
use crate::interop::{arguments, errors, imports};
use crate::raw::compat;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;

/// asyncio's default for `loop.slow_callback_duration`, in seconds.
const SLOW_CALLBACK_SECONDS: f64 = 0.1;

/// A keyword that may be absent or `None`.
type Given<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

#[pymethods]
impl Loop {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*args, **kwargs))]
    fn __new__(
        class: &Bound<'_, PyType>,
        args: Arguments<'_, '_>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Loop> {
        let py = class.py();
        let takes_none = class.getattr("__init__")?.is(&py.get_type::<PyAny>().getattr("__init__")?);
        if takes_none && (!args.is_empty() || kwargs.is_some_and(|kwargs| !kwargs.is_empty())) {
            return Err(PyTypeError::new_err(format!("{}() takes no arguments", class.name()?)));
        }
        let event_loop = Loop::make(super::Overrides::of(class)?).map_err(|error| errors::os_error(py, &error))?;
        event_loop.runtime.scheduler.debug.set(debug_by_environment(py)?);
        Ok(event_loop)
    }

    // Running

    /// Run until stop() is called.
    fn run_forever(slf: &Bound<'_, Self>) -> PyResult<()> {
        run::run_forever(slf)
    }

    /// Run until the future (or the task made of a coroutine) is done; returns its result or raises its exception.
    fn run_until_complete<'py>(slf: &Bound<'py, Self>, future: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        run::run_until_complete(slf, future)
    }

    /// Stop after the turn that runs, or the first one if the loop does not run yet.
    fn stop(&self) {
        self.stopping.set(true);
    }

    /// Close the loop; what waits is dropped, the default executor is shut down without waiting.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        run::close(slf)
    }

    /// Whether close() was called.
    fn is_closed(&self) -> bool {
        self.runtime.scheduler.closed.get()
    }

    /// Whether the loop runs.
    fn is_running(&self) -> bool {
        self.runtime.scheduler.running_thread.get() != 0
    }

    /// Seconds on the loop's clock, which is time.monotonic()'s.
    fn time(&self) -> f64 {
        self.runtime.driver.now().as_secs_f64()
    }

    /// Close all asynchronous generators that are alive; a coroutine.
    fn shutdown_asyncgens(slf: &Bound<'_, Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(run::shutdown_asyncgens(slf)?.into_bound(py).unbind())
    }

    fn _asyncgen_firstiter_hook(slf: &Bound<'_, Self>, agen: &Bound<'_, PyAny>) -> PyResult<()> {
        run::asyncgen_started(slf, agen)
    }

    fn _asyncgen_finalizer_hook(slf: &Bound<'_, Self>, agen: &Bound<'_, PyAny>) -> PyResult<()> {
        run::asyncgen_dropped(slf, agen)
    }

    // Tasks

    /// The function that makes tasks, or None.
    fn get_task_factory(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.task_factory.get())
    }

    /// factory(loop, coro, **kwargs) makes the tasks of create_task(); None: the loop's own.
    fn set_task_factory(&self, factory: &Bound<'_, PyAny>) -> PyResult<()> {
        if !factory.is_none() && !factory.is_callable() {
            return Err(PyTypeError::new_err("task factory must be a callable or None"));
        }
        self.tasks_start_eagerly.set(compat::EAGER_TASKS && factory.is(imports::eager_task_factory(factory.py())?));
        self.task_factory.set((!factory.is_none()).then(|| Obj::from_any(factory)));
        Ok(())
    }

    // Executor

    /// Call func(*args) in the executor (None: the default one); returns a future.
    #[pyo3(signature = (executor, func, *args))]
    fn run_in_executor<'py>(
        slf: &Bound<'py, Self>,
        executor: &Bound<'py, PyAny>,
        func: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        executor::run_in_executor(slf, executor, func, args)
    }

    /// Set the executor that run_in_executor(None, ...) uses: a ThreadPoolExecutor.
    fn set_default_executor(slf: &Bound<'_, Self>, executor: &Bound<'_, PyAny>) -> PyResult<()> {
        executor::set_default_executor(slf, executor)
    }

    /// Wait until the threads of the default executor have ended; a coroutine.
    ///
    /// timeout: seconds, None for no limit; after it a RuntimeWarning, and the threads are left behind.
    #[pyo3(signature = (timeout=None))]
    fn shutdown_default_executor(
        slf: &Bound<'_, Self>,
        py: Python<'_>,
        timeout: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        Ok(executor::shutdown_default_executor(slf, timeout)?.into_bound(py).unbind())
    }

    // Connections

    /// Connect to a host and port (or take a connected sock): gives (transport, protocol).
    #[pyo3(signature = (protocol_factory, host=None, port=None, *, ssl=None, family=0, proto=0, flags=0, sock=None,
                        local_addr=None, server_hostname=None, ssl_handshake_timeout=None, ssl_shutdown_timeout=None,
                        happy_eyeballs_delay=None, interleave=None, all_errors=false))]
    #[expect(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn create_connection(
        slf: &Bound<'_, Self>,
        protocol_factory: &Bound<'_, PyAny>,
        host: Given<'_, '_>,
        port: Given<'_, '_>,
        ssl: Given<'_, '_>,
        #[pyo3(from_py_with = arguments::int)] family: i32,
        #[pyo3(from_py_with = arguments::int)] proto: i32,
        #[pyo3(from_py_with = arguments::int)] flags: i32,
        sock: Given<'_, '_>,
        local_addr: Given<'_, '_>,
        server_hostname: Given<'_, '_>,
        ssl_handshake_timeout: Given<'_, '_>,
        ssl_shutdown_timeout: Given<'_, '_>,
        happy_eyeballs_delay: Given<'_, '_>,
        interleave: Given<'_, '_>,
        #[pyo3(from_py_with = arguments::truth)] all_errors: bool,
    ) -> PyResult<Py<PyAny>> {
        let arguments = connect::Connect {
            protocol_factory: Obj::from_any(protocol_factory),
            host: host.map(Obj::from_any),
            port: port.map(Obj::from_any),
            ssl: ssl.map(Obj::from_any),
            family,
            proto,
            flags,
            sock: sock.map(Obj::from_any),
            local_addr: local_addr.map(Obj::from_any),
            server_hostname: server_hostname.map(Obj::from_any),
            ssl_handshake_timeout: ssl_handshake_timeout.map(Obj::from_any),
            ssl_shutdown_timeout: ssl_shutdown_timeout.map(Obj::from_any),
            happy_eyeballs_delay: happy_eyeballs_delay.map(Obj::from_any),
            interleave: interleave.map(Obj::from_any),
            all_errors,
        };
        let py = slf.py();
        connect::create_connection(py, Loop::runtime_ref(slf), arguments).map(|made| Obj::or_none(py, Some(made)))
    }

    /// Make a transport and a protocol for a connection that the program accepted itself.
    #[pyo3(signature = (protocol_factory, sock, *, ssl=None, ssl_handshake_timeout=None, ssl_shutdown_timeout=None))]
    fn connect_accepted_socket(
        slf: &Bound<'_, Self>,
        protocol_factory: &Bound<'_, PyAny>,
        sock: &Bound<'_, PyAny>,
        ssl: Given<'_, '_>,
        ssl_handshake_timeout: Given<'_, '_>,
        ssl_shutdown_timeout: Given<'_, '_>,
    ) -> PyResult<Py<PyAny>> {
        let arguments = connect::Accepted {
            protocol_factory: Obj::from_any(protocol_factory),
            sock: Obj::from_any(sock),
            ssl: ssl.map(Obj::from_any),
            ssl_handshake_timeout: ssl_handshake_timeout.map(Obj::from_any),
            ssl_shutdown_timeout: ssl_shutdown_timeout.map(Obj::from_any),
        };
        let py = slf.py();
        connect::connect_accepted_socket(py, Loop::runtime_ref(slf), arguments).map(|made| Obj::or_none(py, Some(made)))
    }

    /// Put TLS over a connection: gives the transport to use from now on.
    #[pyo3(signature = (transport, protocol, sslcontext, *, server_side=false, server_hostname=None,
                        ssl_handshake_timeout=None, ssl_shutdown_timeout=None))]
    #[expect(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn start_tls(
        slf: &Bound<'_, Self>,
        transport: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        sslcontext: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::truth)] server_side: bool,
        server_hostname: Given<'_, '_>,
        ssl_handshake_timeout: Given<'_, '_>,
        ssl_shutdown_timeout: Given<'_, '_>,
    ) -> PyResult<Py<PyAny>> {
        let arguments = start_tls::StartTls {
            transport: Obj::from_any(transport),
            protocol: Obj::from_any(protocol),
            tls: start_tls::Tls {
                context: Some(Obj::from_any(sslcontext)),
                server_side,
                server_hostname: server_hostname.map(Obj::from_any),
                handshake_timeout: ssl_handshake_timeout.map(Obj::from_any),
                shutdown_timeout: ssl_shutdown_timeout.map(Obj::from_any),
            },
        };
        let py = slf.py();
        start_tls::start_tls(py, Loop::runtime_ref(slf), arguments).map(|made| Obj::or_none(py, Some(made)))
    }

    /// The layer alone, as asyncio's own tests make it: they bring the transport below, often a mock.
    #[pyo3(signature = (app_protocol, sslcontext, waiter, server_side=false, server_hostname=None,
                        call_connection_made=true, ssl_handshake_timeout=None, ssl_shutdown_timeout=None))]
    #[expect(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn _make_tls_protocol(
        slf: &Bound<'_, Self>,
        app_protocol: &Bound<'_, PyAny>,
        sslcontext: Given<'_, '_>,
        waiter: Given<'_, '_>,
        #[pyo3(from_py_with = arguments::truth)] server_side: bool,
        server_hostname: Given<'_, '_>,
        #[pyo3(from_py_with = arguments::truth)] call_connection_made: bool,
        ssl_handshake_timeout: Given<'_, '_>,
        ssl_shutdown_timeout: Given<'_, '_>,
    ) -> PyResult<Py<PyAny>> {
        let tls = start_tls::Tls {
            context: sslcontext.map(Obj::from_any),
            server_side,
            server_hostname: server_hostname.map(Obj::from_any),
            handshake_timeout: ssl_handshake_timeout.map(Obj::from_any),
            shutdown_timeout: ssl_shutdown_timeout.map(Obj::from_any),
        };
        let waiter = waiter.map(Obj::from_any);
        let layer = tls.layer(slf.py(), &Loop::runtime_ref(slf), app_protocol, waiter, call_connection_made)?;
        Ok(layer.into_any().unbind())
    }

    /// Listen on host (one, several, or None: every interface) and port, or on sock: gives a Server.
    #[pyo3(signature = (protocol_factory, host=None, port=None, *, family=0, flags=1, sock=None, backlog=100,
                        ssl=None, reuse_address=None, reuse_port=None, keep_alive=None, ssl_handshake_timeout=None,
                        ssl_shutdown_timeout=None, start_serving=true))]
    #[expect(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn create_server(
        slf: &Bound<'_, Self>,
        protocol_factory: &Bound<'_, PyAny>,
        host: Given<'_, '_>,
        port: Given<'_, '_>,
        #[pyo3(from_py_with = arguments::int)] family: i32,
        #[pyo3(from_py_with = arguments::int)] flags: i32,
        sock: Given<'_, '_>,
        #[pyo3(from_py_with = arguments::int)] backlog: i32,
        ssl: Given<'_, '_>,
        reuse_address: Given<'_, '_>,
        reuse_port: Given<'_, '_>,
        keep_alive: Given<'_, '_>,
        ssl_handshake_timeout: Given<'_, '_>,
        ssl_shutdown_timeout: Given<'_, '_>,
        #[pyo3(from_py_with = arguments::truth)] start_serving: bool,
    ) -> PyResult<Py<PyAny>> {
        let truthy = |value: Given<'_, '_>| value.map(|value| value.is_truthy()).transpose();
        let arguments = serve::Serve {
            protocol_factory: Obj::from_any(protocol_factory),
            host: host.map(Obj::from_any),
            port: port.map(Obj::from_any),
            family,
            flags,
            sock: sock.map(Obj::from_any),
            backlog,
            ssl: ssl.map(Obj::from_any),
            reuse_address: truthy(reuse_address)?,
            reuse_port: truthy(reuse_port)?.unwrap_or(false),
            keep_alive: truthy(keep_alive)?.unwrap_or(false),
            ssl_handshake_timeout: ssl_handshake_timeout.map(Obj::from_any),
            ssl_shutdown_timeout: ssl_shutdown_timeout.map(Obj::from_any),
            start_serving,
        };
        let py = slf.py();
        serve::create_server(py, Loop::runtime_ref(slf), arguments).map(|made| Obj::or_none(py, Some(made)))
    }

    /// Connect to a Unix socket by its path or abstract name (or take a connected sock): gives (transport, protocol).
    #[pyo3(signature = (protocol_factory, path=None, *, ssl=None, sock=None, server_hostname=None,
                        ssl_handshake_timeout=None, ssl_shutdown_timeout=None))]
    #[expect(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn create_unix_connection(
        slf: &Bound<'_, Self>,
        protocol_factory: &Bound<'_, PyAny>,
        path: Given<'_, '_>,
        ssl: Given<'_, '_>,
        sock: Given<'_, '_>,
        server_hostname: Given<'_, '_>,
        ssl_handshake_timeout: Given<'_, '_>,
        ssl_shutdown_timeout: Given<'_, '_>,
    ) -> PyResult<Py<PyAny>> {
        let arguments = unix::ConnectUnix {
            protocol_factory: Obj::from_any(protocol_factory),
            path: path.map(Obj::from_any),
            ssl: ssl.map(Obj::from_any),
            sock: sock.map(Obj::from_any),
            server_hostname: server_hostname.map(Obj::from_any),
            ssl_handshake_timeout: ssl_handshake_timeout.map(Obj::from_any),
            ssl_shutdown_timeout: ssl_shutdown_timeout.map(Obj::from_any),
        };
        let py = slf.py();
        unix::create_connection(py, Loop::runtime_ref(slf), arguments).map(|made| Obj::or_none(py, Some(made)))
    }

    /// Listen on a Unix socket (a path, an abstract name, or a bound sock): gives a Server.
    ///
    /// cleanup_socket: whether closing the server removes the socket's file; by default from Python 3.13 on.
    #[pyo3(signature = (protocol_factory, path=None, *, sock=None, backlog=100, ssl=None, ssl_handshake_timeout=None,
                        ssl_shutdown_timeout=None, start_serving=true, cleanup_socket=None))]
    #[expect(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn create_unix_server(
        slf: &Bound<'_, Self>,
        protocol_factory: &Bound<'_, PyAny>,
        path: Given<'_, '_>,
        sock: Given<'_, '_>,
        #[pyo3(from_py_with = arguments::int)] backlog: i32,
        ssl: Given<'_, '_>,
        ssl_handshake_timeout: Given<'_, '_>,
        ssl_shutdown_timeout: Given<'_, '_>,
        #[pyo3(from_py_with = arguments::truth)] start_serving: bool,
        cleanup_socket: Given<'_, '_>,
    ) -> PyResult<Py<PyAny>> {
        let arguments = unix::ServeUnix {
            protocol_factory: Obj::from_any(protocol_factory),
            path: path.map(Obj::from_any),
            sock: sock.map(Obj::from_any),
            backlog,
            ssl: ssl.map(Obj::from_any),
            ssl_handshake_timeout: ssl_handshake_timeout.map(Obj::from_any),
            ssl_shutdown_timeout: ssl_shutdown_timeout.map(Obj::from_any),
            start_serving,
            cleanup_socket: cleanup_socket.map(|value| value.is_truthy()).transpose()?,
        };
        let py = slf.py();
        unix::create_server(py, Loop::runtime_ref(slf), arguments).map(|made| Obj::or_none(py, Some(made)))
    }

    /// A socket for datagrams: gives (transport, protocol).
    #[pyo3(signature = (protocol_factory, local_addr=None, remote_addr=None, *, family=None, proto=None, flags=None,
                        reuse_port=None, allow_broadcast=None, sock=None))]
    #[expect(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn create_datagram_endpoint(
        slf: &Bound<'_, Self>,
        protocol_factory: &Bound<'_, PyAny>,
        local_addr: Given<'_, '_>,
        remote_addr: Given<'_, '_>,
        family: Given<'_, '_>,
        proto: Given<'_, '_>,
        flags: Given<'_, '_>,
        reuse_port: Given<'_, '_>,
        allow_broadcast: Given<'_, '_>,
        sock: Given<'_, '_>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let number = |value: Given<'_, '_>| value.map_or_else(|| Obj::from_bound(PyInt::new(py, 0)), Obj::from_any);
        let arguments = datagram::Endpoint {
            protocol_factory: Obj::from_any(protocol_factory),
            local_addr: local_addr.map(Obj::from_any),
            remote_addr: remote_addr.map(Obj::from_any),
            family: number(family),
            proto: number(proto),
            flags: number(flags),
            reuse_port: reuse_port.map(Obj::from_any),
            allow_broadcast: allow_broadcast.map(Obj::from_any),
            sock: sock.map(Obj::from_any),
        };
        datagram::create_endpoint(py, Loop::runtime_ref(slf), arguments).map(|made| Obj::or_none(py, Some(made)))
    }

    // Pipes and children

    /// Read from a pipe, a socket or a character device: gives (transport, protocol).
    fn connect_read_pipe(
        slf: &Bound<'_, Self>,
        protocol_factory: &Bound<'_, PyAny>,
        pipe: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        pipes::connect(slf, Direction::Read, protocol_factory, pipe).map(|made| Obj::or_none(slf.py(), Some(made)))
    }

    /// Write to a pipe, a socket or a character device: gives (transport, protocol).
    fn connect_write_pipe(
        slf: &Bound<'_, Self>,
        protocol_factory: &Bound<'_, PyAny>,
        pipe: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        pipes::connect(slf, Direction::Write, protocol_factory, pipe).map(|made| Obj::or_none(slf.py(), Some(made)))
    }

    /// Call callback(returncode) when the child has ended; None: somebody else has collected it. OSError without pidfds.
    fn _watch_child(slf: &Bound<'_, Self>, pid: i32, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        crate::transports::child::watch(slf.py(), &Loop::runtime_ref(slf), pid, callback)
    }

    // Sockets

    /// Connect a non-blocking socket.
    fn sock_connect(slf: &Bound<'_, Self>, sock: &Bound<'_, PyAny>, address: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        sockets::connect(slf, sock, address).map(|made| Obj::or_none(slf.py(), Some(made)))
    }

    /// Accept a connection: gives (sock, address).
    fn sock_accept(slf: &Bound<'_, Self>, sock: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        sockets::accept(slf, sock).map(|made| Obj::or_none(slf.py(), Some(made)))
    }

    /// Receive up to n bytes.
    fn sock_recv(slf: &Bound<'_, Self>, sock: &Bound<'_, PyAny>, n: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        sockets::receive(slf, sock, n).map(|made| Obj::or_none(slf.py(), Some(made)))
    }

    /// Receive into a buffer; gives the number of bytes.
    fn sock_recv_into(slf: &Bound<'_, Self>, sock: &Bound<'_, PyAny>, buf: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        sockets::receive_into(slf, sock, buf).map(|made| Obj::or_none(slf.py(), Some(made)))
    }

    /// Receive a datagram of up to bufsize bytes: gives (data, address).
    fn sock_recvfrom(
        slf: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        bufsize: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        sockets::receive_from(slf, sock, bufsize).map(|made| Obj::or_none(slf.py(), Some(made)))
    }

    /// Receive a datagram into a buffer: gives (number of bytes, address).
    #[pyo3(signature = (sock, buf, nbytes=None), text_signature = "($self, sock, buf, nbytes=0)")]
    fn sock_recvfrom_into(
        slf: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        buf: &Bound<'_, PyAny>,
        nbytes: Given<'_, '_>,
    ) -> PyResult<Py<PyAny>> {
        sockets::receive_from_into(slf, sock, buf, nbytes).map(|made| Obj::or_none(slf.py(), Some(made)))
    }

    /// Send all of data.
    fn sock_sendall(slf: &Bound<'_, Self>, sock: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        sockets::send_all(slf, sock, data).map(|made| Obj::or_none(slf.py(), Some(made)))
    }

    /// The part of sock_sendfile() that the kernel does.
    fn _sock_sendfile_native(
        slf: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        file: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::offset)] offset: u64,
        #[pyo3(from_py_with = arguments::count)] count: Option<usize>,
    ) -> PyResult<Py<PyAny>> {
        sockets::send_file(slf, sock, file, offset, count).map(|made| Obj::or_none(slf.py(), Some(made)))
    }

    /// Send a datagram to an address; gives the number of bytes.
    fn sock_sendto(
        slf: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        address: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        sockets::send_to(slf, sock, data, address).map(|made| Obj::or_none(slf.py(), Some(made)))
    }

    /// The addresses of a host and port, as socket.getaddrinfo() gives them.
    #[pyo3(signature = (host, port, *, family=0, r#type=0, proto=0, flags=0))]
    fn getaddrinfo(
        slf: &Bound<'_, Self>,
        host: &Bound<'_, PyAny>,
        port: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::int)] family: i32,
        #[pyo3(from_py_with = arguments::int)] r#type: i32,
        #[pyo3(from_py_with = arguments::int)] proto: i32,
        #[pyo3(from_py_with = arguments::int)] flags: i32,
    ) -> PyResult<Py<PyAny>> {
        let question = resolve::Question {
            host: Obj::from_any(host),
            port: Obj::from_any(port),
            family,
            socktype: r#type,
            protocol: proto,
            flags,
        };
        let py = slf.py();
        resolve::getaddrinfo(py, Loop::runtime_ref(slf), question).map(|made| Obj::or_none(py, Some(made)))
    }

    /// Host and service of an address, as socket.getnameinfo() gives them.
    #[pyo3(signature = (sockaddr, flags=0))]
    fn getnameinfo(
        slf: &Bound<'_, Self>,
        sockaddr: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::int)] flags: i32,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        resolve::getnameinfo(py, Loop::runtime_ref(slf), Obj::from_any(sockaddr), flags)
            .map(|made| Obj::or_none(py, Some(made)))
    }

    // Readers, writers, signals

    /// Call callback(*args) whenever the descriptor is readable.
    #[pyo3(signature = (fd, callback, *args))]
    fn add_reader(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        watchers::add(slf.py(), slf, Side::Reader, fd, callback, args).map(drop)
    }

    /// Call callback(*args) whenever the descriptor is writable.
    #[pyo3(signature = (fd, callback, *args))]
    fn add_writer(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        watchers::add(slf.py(), slf, Side::Writer, fd, callback, args).map(drop)
    }

    /// Stop watching for readability; True if something was watched.
    fn remove_reader(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watchers::remove(slf.py(), slf, Side::Reader, fd)
    }

    /// Stop watching for writability; True if something was watched.
    fn remove_writer(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watchers::remove(slf.py(), slf, Side::Writer, fd)
    }

    /// Call callback(*args) in the loop when the signal arrives. Only in the main thread.
    #[pyo3(signature = (sig, callback, *args))]
    fn add_signal_handler(
        slf: &Bound<'_, Self>,
        sig: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        signals::add(slf, sig, callback, args)
    }

    /// Put the default action back; True if there was a handler.
    fn remove_signal_handler(slf: &Bound<'_, Self>, sig: &Bound<'_, PyAny>) -> PyResult<bool> {
        signals::remove(slf, sig)
    }

    // Exceptions

    /// The handler set by set_exception_handler(), or None.
    fn get_exception_handler(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.exception_handler.get())
    }

    /// handler(loop, context) gets what callbacks and tasks left unhandled; None: the default, which logs.
    fn set_exception_handler(slf: &Bound<'_, Self>, handler: &Bound<'_, PyAny>) -> PyResult<()> {
        exceptions::set_handler(slf, handler)
    }

    /// Log the context on the logger "asyncio".
    fn default_exception_handler(slf: &Bound<'_, Self>, context: &Bound<'_, PyAny>) -> PyResult<()> {
        exceptions::default_handler(slf, context)
    }

    /// Report a context (a dict with 'message', 'exception', ...) to the exception handler.
    fn call_exception_handler(slf: &Bound<'_, Self>, context: &Bound<'_, PyAny>) -> PyResult<()> {
        exceptions::call_handler(slf, context)
    }

    // Debug mode

    /// Whether debug mode is on.
    fn get_debug(&self) -> bool {
        self.runtime.scheduler.debug.get()
    }

    /// Switch debug mode; for a running loop, origins of coroutines are tracked from the next turn on.
    fn set_debug(slf: &Bound<'_, Self>, enabled: &Bound<'_, PyAny>) -> PyResult<()> {
        let enabled = enabled.is_truthy()?;
        let event_loop = slf.get();
        event_loop.runtime.scheduler.debug.set(enabled);
        if event_loop.is_running() {
            let track = slf.getattr("_set_coroutine_origin_tracking")?;
            slf.call_method1("call_soon_threadsafe", (track, enabled))?;
        }
        Ok(())
    }

    fn _set_coroutine_origin_tracking(&self, py: Python<'_>, enabled: bool) -> PyResult<()> {
        debug::track_origins(py, self, enabled)
    }

    /// Seconds that a callback may take before debug mode reports it.
    #[getter]
    fn slow_callback_duration(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.slow_callback_duration.get() {
            Some(value) => Ok(value.into_bound(py).unbind()),
            None => Ok(SLOW_CALLBACK_SECONDS.into_pyobject(py)?.into_any().unbind()),
        }
    }

    #[setter]
    fn set_slow_callback_duration(&self, value: &Bound<'_, PyAny>) {
        self.slow_callback_duration.set(Some(Obj::from_any(value)));
    }

    // Private names that programs read

    #[getter(_debug)]
    fn debug_attribute(&self) -> bool {
        self.get_debug()
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.is_closed()
    }

    #[getter]
    fn _thread_id(&self) -> Option<u64> {
        Some(self.runtime.scheduler.running_thread.get()).filter(|&thread| thread != 0)
    }

    #[getter]
    fn _default_executor(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.default_executor.get())
    }

    #[getter]
    fn _exception_handler(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.exception_handler.get())
    }

    #[getter]
    fn _task_factory(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.task_factory.get())
    }

    #[getter]
    fn _asyncgens<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        run::asyncgens(slf)
    }

    fn _check_closed(&self, py: Python<'_>) -> PyResult<()> {
        crate::raw::to_py(py, self.runtime.scheduler.check_open(py))
    }

    fn _check_running(slf: &Bound<'_, Self>) -> PyResult<()> {
        run::check_not_running(slf)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let word = |value: bool| if value { "True" } else { "False" };
        let answer = |name: &str| slf.call_method0(name)?.is_truthy();
        Ok(format!(
            "<{} running={} closed={} debug={}>",
            slf.get_type().name()?,
            word(answer("is_running")?),
            word(answer("is_closed")?),
            word(answer("get_debug")?),
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if !self.is_made.get() {
            return Ok(());
        }
        Visitor::traverse(&visit, |visitor| {
            self.runtime.visit(visitor);
            self.signals.visit(visitor);
            self.cells().into_iter().for_each(|cell| visitor.cell(cell));
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.runtime.scheduler.drain(py));
        drop(self.runtime.close(py));
        self.signals.clear(py);
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
}

impl Loop {
    pub(super) fn slow_callback_seconds(&self, py: Python<'_>) -> PyResult<f64> {
        match self.slow_callback_duration.get() {
            Some(value) => value.borrow(py).extract(),
            None => Ok(SLOW_CALLBACK_SECONDS),
        }
    }
}

/// `PYTHONASYNCIODEBUG`, or `-X dev`.
fn debug_by_environment(py: Python<'_>) -> PyResult<bool> {
    py.import("asyncio.coroutines")?.call_method0("_is_debug_mode")?.is_truthy()
}
