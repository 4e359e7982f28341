//! Recognises the callback by which a task of asyncio's own waits for a future: the builtin `_asyncio.Task.task_wakeup`, bound
//! to the task.

use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::obj::Obj;

/// The function's definition: a static of `_asyncio`, known from the first callback that is one.
static DEFINITION: AtomicPtr<ffi::PyMethodDef> = AtomicPtr::new(std::ptr::null_mut());

/// The task that `callback` wakes, if it is a wake-up of `task_class` or of a class derived from it.
#[inline]
pub(crate) fn woken_by(callback: &Obj, task_class: impl FnOnce() -> Option<Obj>) -> Option<Obj> {
    // SAFETY: the exact type is checked before its layout is used; what the function is bound to lives as long as it.
    unsafe {
        if callback.type_ptr() != &raw mut ffi::PyCFunction_Type {
            return None;
        }
        let function = callback.as_ptr().cast::<ffi::PyCFunctionObject>();
        if (*function).m_ml != DEFINITION.load(Ordering::Relaxed) && !learn(&*function, task_class()?) {
            return None;
        }
        Some(Obj::from_borrowed((*function).m_self))
    }
}

#[cold]
fn learn(function: &ffi::PyCFunctionObject, task_class: Obj) -> bool {
    // SAFETY: a live builtin function has a definition with a name; `task_class` is a class.
    unsafe {
        let is_wakeup = std::ffi::CStr::from_ptr((*function.m_ml).ml_name) == c"task_wakeup"
            && (*function.m_ml).ml_flags == ffi::METH_O
            && !function.m_self.is_null()
            && ffi::PyObject_TypeCheck(function.m_self, task_class.as_ptr().cast::<ffi::PyTypeObject>()) != 0;
        if is_wakeup {
            DEFINITION.store(function.m_ml, Ordering::Relaxed);
        }
        is_wakeup
    }
}
