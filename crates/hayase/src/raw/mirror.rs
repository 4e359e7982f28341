//! The fields of `_asyncio.Task` that others read without asking: `python -m asyncio ps` and `pstree` (3.14 and newer)
//! look into a stopped process for a task's coroutine and name.
//!
//! No layout is compiled in: once per process a task of the base class is made and searched for what was put into it.
//! If that is not found exactly once, nothing is ever written, and only those tools know less.

use std::ops::Range;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyString, PyType};

use super::obj::Obj;

/// Where the fields lie in an instance of the base class, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Fields {
    coro: usize,
    name: usize,
    /// One byte that is 1 in tasks and 0 in futures.
    is_task: usize,
}

/// Finds the fields; `coro` is any coroutine, which is not started.
pub(crate) fn find(
    py: Python<'_>,
    future_class: &Bound<'_, PyType>,
    task_class: &Bound<'_, PyType>,
    coro: &Bound<'_, PyAny>,
) -> PyResult<Option<Fields>> {
    let keywords = PyDict::new(py);
    keywords.set_item("loop", deaf_loop(py)?)?;
    let future = future_class.call((), Some(&keywords))?;
    let name = PyString::new(py, "a task made to be looked at");
    keywords.set_item("name", &name)?;
    let task = task_class.call((coro,), Some(&keywords))?;
    task.setattr("_log_destroy_pending", false)?;

    let head = size_of::<ffi::PyObject>();
    let words = |wanted: &Bound<'_, PyAny>| {
        let word = size_of::<usize>();
        let fields = (head..size_of_instance(task_class)).step_by(word);
        only(fields.filter(|offset| {
            let bytes = bytes(&task, *offset..offset + word);
            usize::from_ne_bytes(bytes.try_into().expect("a word")) == wanted.as_ptr() as usize
        }))
    };
    let differs = |offset: &usize| bytes(&task, *offset..offset + 1) != bytes(&future, *offset..offset + 1);
    let is_task = only((head..size_of_instance(future_class)).filter(differs))
        .filter(|offset| bytes(&task, *offset..offset + 1) == [1]);
    Ok(match (words(coro), words(name.as_any()), is_task) {
        (Some(coro), Some(name), Some(is_task)) => Some(Fields { coro, name, is_task }),
        _ => None,
    })
}

/// Something a task can be made on that never runs it.
fn deaf_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let ignore = |_args: &Bound<'_, _>, _keywords: Option<&Bound<'_, PyDict>>| false;
    let keywords = PyDict::new(py);
    keywords.set_item("get_debug", PyCFunction::new_closure(py, None, None, ignore)?)?;
    keywords.set_item("call_soon", PyCFunction::new_closure(py, None, None, ignore)?)?;
    py.import("types")?.getattr("SimpleNamespace")?.call((), Some(&keywords))
}

fn size_of_instance(class: &Bound<'_, PyType>) -> usize {
    // SAFETY: a ready type.
    unsafe { (*class.as_type_ptr()).tp_basicsize as usize }
}

fn only(mut offsets: impl Iterator<Item = usize>) -> Option<usize> {
    let first = offsets.next()?;
    offsets.next().is_none().then_some(first)
}

fn bytes<'a>(object: &'a Bound<'_, PyAny>, range: Range<usize>) -> &'a [u8] {
    assert!(range.end <= size_of_instance(&object.get_type()));
    // SAFETY: within the live instance, whose memory was zeroed when it was made; nobody writes while we look.
    unsafe { std::slice::from_raw_parts(object.as_ptr().cast::<u8>().add(range.start), range.len()) }
}

impl Fields {
    /// Fills the base's part of `task`, a live instance of a subclass of the base class.
    #[inline]
    pub(crate) fn write(&self, task: &Obj, coro: &Obj, name: &Obj) {
        self.replace(task, self.coro, coro);
        self.write_name(task, name);
        // SAFETY: a flag byte inside the base's part.
        unsafe { task.as_ptr().cast::<u8>().add(self.is_task).write(1) };
    }

    pub(crate) fn write_name(&self, task: &Obj, name: &Obj) {
        self.replace(task, self.name, name);
    }

    fn replace(&self, task: &Obj, offset: usize, value: &Obj) {
        // SAFETY: a field of the base that owns a reference or is null: found in the base class itself. The base's
        // traverse and clear, which our slots call, know it.
        drop(unsafe {
            let field = task.as_ptr().cast::<u8>().add(offset).cast::<*mut ffi::PyObject>();
            Obj::from_owned_opt(field.replace(value.clone().into_ptr()))
        });
    }
}
