//! Arguments of a `METH_FASTCALL | METH_KEYWORDS` method, and methods put on a PyO3 class without PyO3's tuples.
//!
//! Used for the few methods that run per callback (`call_soon`, `create_task`, ...): PyO3 packs `*args` into a tuple
//! and looks every keyword up, about 40 ns that these methods do not have.

use std::ffi::CStr;
use std::marker::PhantomData;

use pyo3::PyClass;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;

use super::call::Name;
use super::obj::Obj;
use super::{Raised, RawResult, entry};

/// A view of the arguments of one call; borrowed from the caller, so it cannot outlive the call.
pub(crate) struct Args<'a> {
    words: *const *mut ffi::PyObject,
    positional: usize,
    keywords: *mut ffi::PyObject,
    function: &'static str,
    _call: PhantomData<&'a ()>,
}

impl<'a> Args<'a> {
    /// # Safety
    /// The words are those of a fastcall: `positional` borrowed references, then one per name in `keywords` (null or
    /// a tuple of str), all alive during the call.
    pub(crate) unsafe fn new(
        words: *const *mut ffi::PyObject,
        positional: ffi::Py_ssize_t,
        keywords: *mut ffi::PyObject,
        function: &'static str,
    ) -> Args<'a> {
        Args { words, positional: positional as usize, keywords, function, _call: PhantomData }
    }

    /// The same arguments, with the name that errors about them give the function.
    #[inline]
    pub(crate) fn named(&self, function: &'static str) -> Args<'a> {
        Args { words: self.words, positional: self.positional, keywords: self.keywords, function, _call: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.positional
    }

    pub(crate) fn function(&self) -> &'static str {
        self.function
    }

    /// A new reference to positional argument `i`.
    #[inline]
    pub(crate) fn get(&self, i: usize) -> Option<Obj> {
        // SAFETY: in range, so one of the caller's live references.
        (i < self.positional).then(|| unsafe { Obj::from_borrowed(*self.words.add(i)) })
    }

    /// Positional arguments from `start` on, packed: nothing, the argument itself, or a tuple.
    #[inline]
    pub(crate) fn rest(&self, start: usize) -> RawResult<Rest> {
        match self.positional.saturating_sub(start) {
            0 => Ok(Rest::None),
            // SAFETY: in range.
            1 => Ok(Rest::One(unsafe { Obj::from_borrowed(*self.words.add(start)) })),
            count => {
                // SAFETY: a new tuple of `count` slots, each filled with a new reference before anyone sees it.
                unsafe {
                    let tuple = Obj::from_owned(ffi::PyTuple_New(count as ffi::Py_ssize_t))?;
                    for i in 0..count {
                        let item = *self.words.add(start + i);
                        ffi::Py_INCREF(item);
                        ffi::PyTuple_SET_ITEM(tuple.as_ptr(), i as ffi::Py_ssize_t, item);
                    }
                    Ok(Rest::Tuple(tuple))
                }
            }
        }
    }

    #[inline]
    pub(crate) fn keyword_count(&self) -> usize {
        if self.keywords.is_null() {
            return 0;
        }
        // SAFETY: non-null means a tuple.
        unsafe { ffi::PyTuple_GET_SIZE(self.keywords) as usize }
    }

    /// Name and value of keyword `i`.
    pub(crate) fn keyword(&self, i: usize) -> (Obj, Obj) {
        assert!(i < self.keyword_count());
        // SAFETY: in range; values follow the positional words.
        unsafe {
            (
                Obj::from_borrowed(ffi::PyTuple_GET_ITEM(self.keywords, i as ffi::Py_ssize_t)),
                Obj::from_borrowed(*self.words.add(self.positional + i)),
            )
        }
    }

    /// The values of the keywords `names`, in that order; any other keyword is a `TypeError` worded as Python's.
    #[inline]
    pub(crate) fn keywords<const N: usize>(
        &self,
        py: Python<'_>,
        names: [&'static Name; N],
    ) -> RawResult<[Option<Obj>; N]> {
        let mut found = [const { None }; N];
        'keywords: for i in 0..self.keyword_count() {
            let (name, value) = self.keyword(i);
            for (slot, wanted) in found.iter_mut().zip(names) {
                if name.is(wanted.as_ptr()) || same_text(&name, wanted.as_ptr())? {
                    *slot = Some(value);
                    continue 'keywords;
                }
            }
            return Err(self.unexpected_keyword(py, &name));
        }
        Ok(found)
    }

    #[cold]
    fn unexpected_keyword(&self, py: Python<'_>, name: &Obj) -> Raised {
        let name = name.borrow(py).to_string();
        type_error(py, format!("{}() got an unexpected keyword argument '{name}'", self.function))
    }

    /// The arguments called `names`, by position or keyword; the first `required` must be there. Errors are worded as
    /// Python's.
    #[inline]
    pub(crate) fn bind<const N: usize>(
        &self,
        py: Python<'_>,
        names: [&'static Name; N],
        required: usize,
    ) -> RawResult<[Option<Obj>; N]> {
        self.bind_mixed(py, names, required, N)
    }

    /// As [`Args::bind`]; only the first `positional` of the names may be given by position.
    #[inline]
    pub(crate) fn bind_mixed<const N: usize>(
        &self,
        py: Python<'_>,
        names: [&'static Name; N],
        required: usize,
        positional: usize,
    ) -> RawResult<[Option<Obj>; N]> {
        let mut bound = [const { None }; N];
        if (required..=positional).contains(&self.positional) && self.keyword_count() == 0 {
            for (i, slot) in bound.iter_mut().enumerate() {
                *slot = self.get(i);
            }
            return Ok(bound);
        }
        self.bind_slowly(py, names, required, positional)
    }

    #[cold]
    fn bind_slowly<const N: usize>(
        &self,
        py: Python<'_>,
        names: [&'static Name; N],
        required: usize,
        positional: usize,
    ) -> RawResult<[Option<Obj>; N]> {
        // A method counts its receiver, as Python does.
        let receiver = usize::from(self.function.contains('.'));
        if self.positional > positional {
            let (least, most) = (required + receiver, positional + receiver);
            let takes = if least == most { format!("{most}") } else { format!("from {least} to {most}") };
            let plural = if most == 1 { "" } else { "s" };
            let given = self.positional + receiver;
            let text = format!("{}() takes {takes} positional argument{plural} but {given} were given", self.function);
            return Err(type_error(py, text));
        }
        let mut bound = self.keywords(py, names)?;
        for i in 0..self.positional {
            if bound[i].is_some() {
                let text = format!("{}() got multiple values for argument '{}'", self.function, names[i].text());
                return Err(type_error(py, text));
            }
            bound[i] = self.get(i);
        }
        let missing: Vec<&str> = (0..required).filter(|&i| bound[i].is_none()).map(|i| names[i].text()).collect();
        if missing.is_empty() { Ok(bound) } else { Err(missing_error(py, self.function, &missing)) }
    }

    /// At least the positional arguments `names`; the error is worded as Python's own for missing ones.
    #[inline]
    pub(crate) fn require(&self, py: Python<'_>, names: &[&str]) -> RawResult<()> {
        if self.positional >= names.len() {
            return Ok(());
        }
        Err(self.missing(py, names))
    }

    /// The one argument of a method such as `write(data)`, by position or by name.
    #[inline]
    pub(crate) fn only(&self, py: Python<'_>, name: &'static Name) -> RawResult<Obj> {
        let [value] = self.bind(py, [name], 1)?;
        Ok(value.expect("it is required"))
    }

    #[cold]
    fn missing(&self, py: Python<'_>, names: &[&str]) -> Raised {
        missing_error(py, self.function, &names[self.positional..])
    }
}

fn missing_error(py: Python<'_>, function: &str, names: &[&str]) -> Raised {
    let missing: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    let list = match missing.as_slice() {
        [one] => one.clone(),
        [first, second] => format!("{first} and {second}"),
        [start @ .., last] => format!("{}, and {last}", start.join(", ")),
        [] => String::new(),
    };
    let plural = if missing.len() == 1 { "" } else { "s" };
    type_error(py, format!("{function}() missing {} required positional argument{plural}: {list}", missing.len()))
}

/// Arguments kept for a later call.
pub(crate) enum Rest {
    None,
    One(Obj),
    Tuple(Obj),
}

fn same_text(a: &Obj, b: *mut ffi::PyObject) -> RawResult<bool> {
    // SAFETY: both are str.
    match unsafe { ffi::PyUnicode_Compare(a.as_ptr(), b) } {
        0 => Ok(true),
        // SAFETY: only asks.
        -1 if !unsafe { ffi::PyErr_Occurred() }.is_null() => Err(Raised),
        _ => Ok(false),
    }
}

#[cold]
pub(crate) fn type_error(py: Python<'_>, text: String) -> Raised {
    Raised::from_err(py, PyTypeError::new_err(text))
}

/// A method of the PyO3 class `C`, for [`add_method`].
pub(crate) trait FastMethod<C> {
    const NAME: &'static CStr;
    const DOC: &'static CStr;
    /// Parameters that may be given by place or by name; `Args` has them by place.
    const PARAMETERS: &'static [&'static CStr] = &[];
    fn call(py: Python<'_>, this: &Obj, receiver: &C, args: &Args<'_>) -> RawResult<Obj>;
}

/// The arguments of a call that gives positional parameters by name, put in order.
struct Placed {
    /// The caller's references.
    words: Vec<*mut ffi::PyObject>,
    positional: usize,
    keywords: Obj,
}

impl Placed {
    /// `None` if no keyword is the next parameter: then the call is in order, or wrong and told so by who looks at it.
    ///
    /// # Safety
    /// As `Args::new`; `keywords` is not null.
    #[cold]
    unsafe fn new(
        words: *const *mut ffi::PyObject,
        positional: usize,
        keywords: *mut ffi::PyObject,
        parameters: &[&CStr],
    ) -> RawResult<Option<Placed>> {
        // SAFETY: by contract a tuple of str, and as many words behind the positional ones; all borrowed from the caller.
        unsafe {
            let count = ffi::PyTuple_GET_SIZE(keywords) as usize;
            let name = |i: usize| ffi::PyTuple_GET_ITEM(keywords, i as ffi::Py_ssize_t);
            let mut placed: Vec<_> = (0..positional).map(|i| *words.add(i)).collect();
            let mut left: Vec<usize> = (0..count).collect();
            for parameter in &parameters[positional..] {
                let is_it = |&i: &usize| ffi::PyUnicode_CompareWithASCIIString(name(i), parameter.as_ptr()) == 0;
                let Some(at) = left.iter().position(is_it) else { break };
                placed.push(*words.add(positional + left.remove(at)));
            }
            if left.len() == count {
                return Ok(None);
            }
            let positional_now = placed.len();
            let names = Obj::from_owned(ffi::PyTuple_New(left.len() as ffi::Py_ssize_t))?;
            for (slot, &i) in left.iter().enumerate() {
                ffi::Py_INCREF(name(i));
                ffi::PyTuple_SET_ITEM(names.as_ptr(), slot as ffi::Py_ssize_t, name(i));
                placed.push(*words.add(positional + i));
            }
            Ok(Some(Placed { words: placed, positional: positional_now, keywords: names }))
        }
    }
}

unsafe extern "C" fn trampoline<C, M>(
    this: *mut ffi::PyObject,
    words: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject
where
    C: PyClass<Frozen = True> + Sync,
    M: FastMethod<C>,
{
    entry(|py| {
        let name = const {
            match M::NAME.to_str() {
                Ok(name) => name,
                Err(_) => panic!("names are ASCII"),
            }
        };
        let placed = if keywords.is_null() || count as usize >= M::PARAMETERS.len() {
            None
        } else {
            // SAFETY: as below; the names are not null, so a tuple of str.
            unsafe { Placed::new(words, count as usize, keywords, M::PARAMETERS)? }
        };
        let args = match &placed {
            // SAFETY: the interpreter passes live references as the fastcall convention says.
            None => unsafe { Args::new(words, count, keywords, name) },
            // SAFETY: the same references in another order, and the tuple of the names that are left; `placed` outlives the call.
            Some(placed) => unsafe {
                Args::new(placed.words.as_ptr(), placed.positional as ffi::Py_ssize_t, placed.keywords.as_ptr(), name)
            },
        };
        // SAFETY: `self` of a method call is alive during the call; borrowed, not counted.
        let this = std::mem::ManuallyDrop::new(unsafe { Obj::from_owned_opt(this) });
        let this = this.as_ref().expect("self is never null");
        // SAFETY: the method descriptor, made for the class `C` by `add_method`, checked `self`; `C` is frozen.
        let receiver = unsafe { this.borrow(py).cast_unchecked::<C>() };
        M::call(py, this, receiver.get(), &args)
    })
}

pub(crate) type FastcallFunction = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// Puts a method on its class.
pub(crate) fn add_method<C, M>(py: Python<'_>) -> PyResult<()>
where
    C: PyClass<Frozen = True> + Sync,
    M: FastMethod<C>,
{
    let class = py.get_type::<C>();
    let def = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: M::NAME.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: trampoline::<C, M> },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: M::DOC.as_ptr(),
    }));
    // SAFETY: the definition lives for ever (leaked, once per method and process); the class is a heap type of ours.
    let descriptor = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_type_ptr(), def))? };
    class.setattr(M::NAME.to_str().expect("names are ASCII"), descriptor)
}
