//! The arguments of `__init__` and `__aexit__`, with Python's own errors.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::raw::call::Name;
use crate::raw::fastcall::Args;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_raw};

static EXC_TYPE: Name = Name::new(c"exc_type");
static EXC: Name = Name::new(c"exc");
static TB: Name = Name::new(c"tb");

/// Those of `__aexit__`, which are not looked at.
pub(super) fn exit(py: Python<'_>, args: &Args<'_>) -> RawResult<()> {
    args.named("__aexit__").bind(py, [&EXC_TYPE, &EXC, &TB], 3).map(drop)
}

/// At most one argument, called `name`, by position or keyword. Without a name: none at all.
pub(super) fn one(
    py: Python<'_>,
    class: &str,
    name: Option<&str>,
    args: &Obj,
    keywords: Option<&Obj>,
) -> RawResult<Option<Obj>> {
    let parse = || -> PyResult<Option<Obj>> {
        let args = args.borrow(py);
        let given = args.len()?;
        let at_most = usize::from(name.is_some());
        if given > at_most {
            let takes = if at_most == 0 { "1 positional argument" } else { "from 1 to 2 positional arguments" };
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
