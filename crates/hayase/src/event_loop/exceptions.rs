//! Where exceptions of callbacks go: `call_exception_handler` and the default, which logs on the `asyncio` logger.
//!
//! Texts and keys are asyncio's. `KeyboardInterrupt` and `SystemExit` always pass through.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use super::Loop;
use super::turn::leaves_the_loop;
use crate::interop::imports;
use crate::raw::handled::while_handling;

/// asyncio's own name for `logging.getLogger("asyncio")`, looked up at every use: programs and tests replace it.
pub(super) fn logger(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    imports::base_events(py)?.getattr("logger")
}

pub(super) fn call_handler(this: &Bound<'_, Loop>, report: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = this.py();
    let Some(handler) = this.get().exception_handler.get() else {
        return match this.call_method1("default_exception_handler", (report,)) {
            Ok(_) => Ok(()),
            Err(err) => log_failure(py, err, "Exception in default exception handler"),
        };
    };
    let Err(err) = call_in_context(this, &handler.into_bound(py), report) else {
        return Ok(());
    };
    if leaves_the_loop(py, &err) {
        return Err(err);
    }
    let exception = err.into_value(py).into_bound(py);
    let second = PyDict::new(py);
    second.set_item("message", "Unhandled error in exception handler")?;
    second.set_item("exception", &exception)?;
    second.set_item("context", report)?;
    while_handling(&exception, || match this.call_method1("default_exception_handler", (second,)) {
        Ok(_) => Ok(()),
        Err(err) => log_failure(
            py,
            err,
            "Exception in default exception handler while handling an unexpected error in custom exception handler",
        ),
    })
}

fn log_failure(py: Python<'_>, err: PyErr, text: &str) -> PyResult<()> {
    if leaves_the_loop(py, &err) {
        return Err(err);
    }
    let keywords = PyDict::new(py);
    keywords.set_item("exc_info", true)?;
    while_handling(err.value(py), || logger(py)?.call_method("error", (text,), Some(&keywords)))?;
    Ok(())
}

/// From 3.12 the handler runs in the context of what failed, if that has one.
fn call_in_context(this: &Bound<'_, Loop>, handler: &Bound<'_, PyAny>, report: &Bound<'_, PyAny>) -> PyResult<()> {
    if crate::raw::compat::EXCEPTION_HANDLER_RUNS_IN_CONTEXT {
        for key in ["task", "future", "handle"] {
            let Ok(thing) = report.get_item(key) else {
                continue;
            };
            if thing.is_none() {
                continue;
            }
            if thing.hasattr("get_context")? {
                let context = thing.call_method0("get_context")?;
                if !context.is_none() && context.hasattr("run")? {
                    context.call_method1("run", (handler, this, report))?;
                    return Ok(());
                }
            }
            break;
        }
    }
    handler.call1((this, report))?;
    Ok(())
}

pub(super) fn default_handler(this: &Bound<'_, Loop>, report: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = this.py();
    let message = report.call_method1("get", ("message",))?;
    let message =
        if message.is_truthy()? { message.str()?.to_string() } else { "Unhandled exception in event loop".into() };
    let exception = report.call_method1("get", ("exception",))?;
    let exc_info = if exception.is_none() {
        false.into_pyobject(py)?.to_owned().into_any()
    } else {
        let traceback = exception.getattr("__traceback__")?;
        (exception.get_type(), exception, traceback).into_pyobject(py)?.into_any()
    };

    // The report is completed in place, as asyncio does it.
    if !report.contains("source_traceback")?
        && let Some(handle) = this.get().current_handle.get()
    {
        let traceback = handle.into_bound(py).getattr("_source_traceback")?;
        if traceback.is_truthy()? {
            report.set_item("handle_traceback", traceback)?;
        }
    }

    let mut lines = vec![message];
    let keys: Bound<'_, PyList> = imports::sorted(py)?.call1((report,))?.cast_into()?;
    for key in keys {
        let name = key.cast::<PyString>().map(|name| name.to_string()).unwrap_or_default();
        let value = report.get_item(&key)?;
        let text = match name.as_str() {
            "message" | "exception" => continue,
            "source_traceback" => format!("Object created at (most recent call last):\n{}", traceback_text(&value)?),
            "handle_traceback" => format!("Handle created at (most recent call last):\n{}", traceback_text(&value)?),
            _ => value.repr()?.to_string(),
        };
        lines.push(format!("{}: {text}", key.str()?));
    }
    let keywords = PyDict::new(py);
    keywords.set_item("exc_info", exc_info)?;
    logger(py)?.call_method("error", (lines.join("\n"),), Some(&keywords))?;
    Ok(())
}

fn traceback_text(frames: &Bound<'_, PyAny>) -> PyResult<String> {
    let lines: Vec<String> = imports::format_list(frames.py())?.call1((frames,))?.extract()?;
    Ok(lines.concat().trim_end().to_owned())
}

pub(super) fn set_handler(this: &Bound<'_, Loop>, handler: &Bound<'_, PyAny>) -> PyResult<()> {
    if !handler.is_none() && !handler.is_callable() {
        let text = format!("A callable object or None is expected, got {}", handler.repr()?);
        return Err(PyTypeError::new_err(text));
    }
    this.get().exception_handler.set((!handler.is_none()).then(|| crate::raw::obj::Obj::from_any(handler)));
    Ok(())
}

/// `warnings.warn(text, ResourceWarning, source=source)`
pub(super) fn resource_warning(py: Python<'_>, text: &str, source: &Bound<'_, PyAny>) -> PyResult<()> {
    let keywords = PyDict::new(py);
    keywords.set_item("source", source)?;
    let category = py.import("builtins")?.getattr("ResourceWarning")?;
    py.import("warnings")?.call_method("warn", (text, category), Some(&keywords))?;
    Ok(())
}
