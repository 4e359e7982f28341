//! The arguments of `__init__` and `__aexit__`, with Python's own errors; and the numbers and truth values of methods.

use std::ffi::c_int;

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;

use crate::raw::call::Name;
use crate::raw::fastcall::Args;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};

/// Counts as true or false, whatever it is. For `from_py_with`.
pub(crate) fn truth(argument: &Bound<'_, PyAny>) -> PyResult<bool> {
    argument.is_truthy()
}

/// A number for a system call, with the errors of the functions of `socket`. For `from_py_with`.
pub(crate) fn int(argument: &Bound<'_, PyAny>) -> PyResult<c_int> {
    let long: i64 = argument.extract()?;
    let text = if long < 0 { "signed integer is less than minimum" } else { "signed integer is greater than maximum" };
    c_int::try_from(long).map_err(|_| PyOverflowError::new_err(text))
}

/// Where to begin in a file; asyncio has refused what is no int, or negative. For `from_py_with`.
pub(crate) fn offset(argument: &Bound<'_, PyAny>) -> PyResult<u64> {
    argument.extract::<i64>().map(|offset| offset as u64)
}

/// How much at most; more than memory can hold is as good as unlimited. For `from_py_with`.
pub(crate) fn count(argument: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    Ok(if argument.is_none() { None } else { Some(argument.extract().unwrap_or(usize::MAX)) })
}

static EXC_TYPE: Name = Name::new(c"exc_type");
static EXC: Name = Name::new(c"exc");
static TB: Name = Name::new(c"tb");

/// Those of `__aexit__`, which are not looked at.
#[inline]
pub(crate) fn exit(py: Python<'_>, args: &Args<'_>) -> RawResult<()> {
    if args.len() == 3 && args.keyword_count() == 0 {
        return Ok(());
    }
    args.named("_ContextManagerMixin.__aexit__").bind(py, [&EXC_TYPE, &EXC, &TB], 3).map(drop)
}

/// At most one argument, called `name`, by position or keyword. Without a name: none at all.
pub(crate) fn one(
    py: Python<'_>,
    class: &str,
    name: Option<&str>,
    args: &Obj,
    keywords: Option<&Obj>,
) -> RawResult<Option<Obj>> {
    parse(py, class, name, false, args, keywords)
}

/// Exactly one argument, called `name`, by position or keyword.
pub(crate) fn required(py: Python<'_>, class: &str, name: &str, args: &Obj, keywords: Option<&Obj>) -> RawResult<Obj> {
    match parse(py, class, Some(name), true, args, keywords)? {
        Some(value) => Ok(value),
        None => {
            let text = format!("{class}.__init__() missing 1 required positional argument: '{name}'");
            Err(Raised::from_err(py, PyTypeError::new_err(text)))
        }
    }
}

fn parse(
    py: Python<'_>,
    class: &str,
    name: Option<&str>,
    required: bool,
    args: &Obj,
    keywords: Option<&Obj>,
) -> RawResult<Option<Obj>> {
    let parse = || -> PyResult<Option<Obj>> {
        let args = args.borrow(py);
        let given = args.len()?;
        let at_most = usize::from(name.is_some());
        if given > at_most {
            let takes = match (at_most, required) {
                (0, _) => "1 positional argument",
                (_, true) => "2 positional arguments",
                (_, false) => "from 1 to 2 positional arguments",
            };
            let text = format!("{class}.__init__() takes {takes} but {} were given", given + 1);
            return Err(PyTypeError::new_err(text));
        }
        let mut value = if given == 1 { Some(Obj::from_bound(args.get_item(0)?)) } else { None };
        if let Some(keywords) = keywords {
            for key in keywords.borrow(py).try_iter()? {
                let key: String = key?.extract()?;
                if Some(key.as_str()) != name {
                    let text = format!("{class}.__init__() got an unexpected keyword argument '{key}'");
                    return Err(PyTypeError::new_err(text));
                }
                if value.is_some() {
                    let text = format!("{class}.__init__() got multiple values for argument '{key}'");
                    return Err(PyTypeError::new_err(text));
                }
                value = Some(Obj::from_bound(keywords.borrow(py).get_item(key)?));
            }
        }
        Ok(value)
    };
    to_raw(py, parse())
}
