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
    handle_class = "asyncio.events"."Handle";
    timer_handle_class = "asyncio.events"."TimerHandle";
    format_callback_source = "asyncio.format_helpers"."_format_callback_source";
    extract_stack = "asyncio.format_helpers"."extract_stack";
    is_coroutine = "asyncio.coroutines"."iscoroutine";
    is_coroutine_function = "inspect"."iscoroutinefunction";
    is_future = "asyncio.futures"."isfuture";
    wrap_future = "asyncio.futures"."wrap_future";
    ensure_future = "asyncio.tasks"."ensure_future";
    get_ident = "threading"."get_ident";
    weak_set = "weakref"."WeakSet";
    thread_pool_executor = "concurrent.futures"."ThreadPoolExecutor";
}

/// As a raw reference, for code below PyO3.
pub(crate) fn raw(py: Python<'_>, import: PyResult<&Bound<'_, PyAny>>) -> RawResult<Obj> {
    match import {
        Ok(object) => Ok(Obj::from_any(object)),
        Err(err) => Err(Raised::from_err(py, err)),
    }
}
