//! Calls that a timer keeps without a callable: a function of ours and the object that it works on.
//!
//! A sleeping task and a timeout have a timer each, whose callback nobody looks at. A bound method for it would be allocated
//! and freed each time, so it is made when somebody asks (`handle._callback`, a report).

use std::sync::OnceLock;

use pyo3::Python;

use crate::raw::RawResult;
use crate::raw::obj::Obj;

/// What a handle calls.
pub(crate) enum Callback {
    Callable(Obj),
    Native(Native, Obj),
}

impl Callback {
    /// As an object, for a loop that is not ours.
    pub(crate) fn into_callable(self, py: Python<'_>) -> RawResult<Obj> {
        match self {
            Callback::Callable(callable) => Ok(callable),
            Callback::Native(native, target) => native.callable(py, &target),
        }
    }
}

impl From<Obj> for Callback {
    fn from(callable: Obj) -> Callback {
        Callback::Callable(callable)
    }
}

/// Which of them.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Native {
    /// The target is a future of ours, whose result the argument is unless it was cancelled.
    SetResult,
    /// The target is a `Timeout`, whose time is over.
    EndTimeout,
}

pub(crate) struct NativeCall {
    pub(crate) run: fn(Python<'_>, &Obj, Option<&Obj>) -> RawResult<Obj>,
    /// The same as an object that is called with the argument.
    pub(crate) callable: fn(Python<'_>, &Obj) -> RawResult<Obj>,
}

static SET_RESULT: OnceLock<NativeCall> = OnceLock::new();
static END_TIMEOUT: OnceLock<NativeCall> = OnceLock::new();

impl Native {
    /// Says how; once, at import.
    pub(crate) fn define(self, call: NativeCall) {
        let _ = self.place().set(call);
    }

    fn place(self) -> &'static OnceLock<NativeCall> {
        match self {
            Native::SetResult => &SET_RESULT,
            Native::EndTimeout => &END_TIMEOUT,
        }
    }

    #[inline]
    pub(super) fn run(self, py: Python<'_>, target: &Obj, argument: Option<&Obj>) -> RawResult<Obj> {
        (self.place().get().expect("defined at import").run)(py, target, argument)
    }

    pub(super) fn callable(self, py: Python<'_>, target: &Obj) -> RawResult<Obj> {
        (self.place().get().expect("defined at import").callable)(py, target)
    }
}
