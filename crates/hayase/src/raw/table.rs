//! Tables of a raw type's slots, methods and getters, written as safe functions.
//!
//! `noargs(c"done", ..., done)` takes a plain function of the value; the C function around it is made here. A function
//! item has no captures and no size, so the C function needs nothing but the item's type to call it.

use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::ptr::NonNull;

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::pyclass::CompareOp;
use pyo3::{PyErr, ffi};

use super::attributes::Attributes;
use super::call::Name;
use super::fastcall::Args;
use super::instance::{self, Class, Data, Ref};
use super::obj::Obj;
use super::typespec::TypeBuilder;
use super::{Raised, RawResult, entry, entry_hash, entry_int};

/// What one step of an iterator or of `am_send` gave.
pub(crate) enum Step {
    Yield(Obj),
    Return(Obj),
}

pub(crate) struct Table<T: Data> {
    builder: TypeBuilder,
    _data: PhantomData<fn(T)>,
}

/// Calls a function through its type alone.
#[inline(always)]
pub(super) fn conjure<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "only function items and closures without captures") };
    // SAFETY: the type has no bytes, so nothing is read; every builder method below takes a value of
    // `F`, which proves that it has one, and `Copy` allows another.
    unsafe { NonNull::<F>::dangling().read() }
}

macro_rules! function {
    ($name:ident, ($($arg:ty),*), $result:ty) => {
        pub(crate) trait $name<T: Data>: Fn(Python<'_>, &Ref<T> $(, $arg)*) -> RawResult<$result> + Copy + 'static {}
        impl<T: Data, F> $name<T> for F where F: Fn(Python<'_>, &Ref<T> $(, $arg)*) -> RawResult<$result> + Copy + 'static {}
    };
}

function!(NoArgs, (), Obj);
function!(OneArg, (&Obj), Obj);
function!(Fastcall, (&Args<'_>), Obj);
function!(Setter, (&Obj), ());
function!(Init, (&Obj, Option<&Obj>), ());
function!(Hash, (), isize);
function!(Compare, (&Obj, CompareOp), Obj);
function!(Next, (), Option<Obj>);
function!(Send, (&Obj), Step);

impl<T: Data> Table<T> {
    /// `base` is null for `object`. The type is final (no `BASETYPE`) unless [`Data::SUBCLASSABLE`] says otherwise.
    pub(crate) fn new(name: &'static CStr, doc: &'static CStr, base: *mut ffi::PyTypeObject, flags: u64) -> Table<T> {
        let kind = match T::SUBCLASSABLE {
            // What programs subclass they may also patch.
            Some(_) => ffi::Py_TPFLAGS_BASETYPE,
            None => ffi::Py_TPFLAGS_IMMUTABLETYPE,
        };
        let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC | kind | flags;
        let mut builder = TypeBuilder::new(name, Class::<T>::basic_size(base), flags)
            .slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast())
            .slot(ffi::Py_tp_clear, instance::clear::<T> as *mut _);
        builder = if base.is_null() {
            builder
                .slot(ffi::Py_tp_dealloc, instance::dealloc::<T> as *mut _)
                .slot(ffi::Py_tp_traverse, instance::traverse::<T> as *mut _)
        } else {
            builder
                .slot(ffi::Py_tp_dealloc, instance::dealloc_with_base::<T> as *mut _)
                .slot(ffi::Py_tp_traverse, instance::traverse_with_base::<T> as *mut _)
        };
        if T::FINALIZE {
            builder = builder.slot(ffi::Py_tp_finalize, instance::finalize::<T> as *mut _);
        }
        let table = Table { builder, _data: PhantomData };
        match T::SUBCLASSABLE {
            Some(attributes) => {
                assert!(base.is_null(), "subclassable types have `object` as their base");
                table.attributes(attributes)
            }
            None => table,
        }
    }

    /// Instances (of a type on `object`) have a dict and can be referenced weakly; `offset` is where in `T` its
    /// [`Attributes`] are.
    pub(crate) fn attributes(self, offset: usize) -> Self {
        let start = Class::<T>::offset_on(std::ptr::null_mut()) + offset;
        self.map(|builder| {
            builder
                .offset_member(c"__dictoffset__", start + Attributes::DICT)
                .offset_member(c"__weaklistoffset__", start + Attributes::WEAK_REFERENCES)
                .getset(c"__dict__", ffi::PyObject_GenericGetDict, Some(ffi::PyObject_GenericSetDict))
        })
    }

    /// Instances (of a type on `object`) are called through the vectorcall function that lies at `offset` in `T`.
    pub(super) fn called_at(self, offset: usize) -> Self {
        let start = Class::<T>::offset_on(std::ptr::null_mut()) + offset;
        self.map(|builder| {
            builder
                .offset_member(c"__vectorcalloffset__", start)
                .slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut _)
        })
    }

    /// `tp_descr_get`
    pub(super) fn binds(self, function: ffi::descrgetfunc) -> Self {
        self.map(|builder| builder.slot(ffi::Py_tp_descr_get, function as *mut _))
    }

    /// `tp_getattro`
    pub(super) fn attributes_through(self, function: ffi::getattrofunc) -> Self {
        self.map(|builder| builder.slot(ffi::Py_tp_getattro, function as *mut _))
    }

    /// A type derived from the class of `T`, which is built already: same value, other methods.
    pub(crate) fn derived(name: &'static CStr, doc: &'static CStr) -> Table<T> {
        assert!(T::SUBCLASSABLE.is_some(), "a subclass of a final type");
        let base = T::class().type_ptr();
        // SAFETY: a ready type.
        let size = unsafe { (*base).tp_basicsize } as usize;
        let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_BASETYPE;
        let builder = TypeBuilder::new(name, size, flags)
            .slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast())
            .slot(ffi::Py_tp_clear, instance::clear::<T> as *mut _)
            .slot(ffi::Py_tp_traverse, instance::traverse::<T> as *mut _)
            .slot(ffi::Py_tp_dealloc, instance::dealloc::<T> as *mut _);
        Table { builder, _data: PhantomData }
    }

    /// Makes a [`Table::derived`] type.
    pub(crate) fn build_derived(self) -> RawResult<Obj> {
        let made = self.builder.build(T::class().type_ptr())?;
        use_short_name(&made)?;
        Ok(made)
    }

    /// `Class[item]` for annotations.
    pub(crate) fn class_getitem(self) -> Self {
        self.map(|builder| {
            builder.method(
                c"__class_getitem__",
                c"For annotations: the class with the type of its items.",
                ffi::METH_O | ffi::METH_CLASS,
                ffi::PyMethodDefPointer { PyCFunction: ffi::Py_GenericAlias },
            )
        })
    }

    /// Makes the type and remembers it as the class of `T`.
    pub(crate) fn build(self, base: *mut ffi::PyTypeObject) -> RawResult<()> {
        let made = self.builder.build(base)?;
        if T::SUBCLASSABLE.is_some() {
            use_short_name(&made)?;
        }
        T::class().set(made, base);
        Ok(())
    }

    fn map(mut self, change: impl FnOnce(TypeBuilder) -> TypeBuilder) -> Self {
        self.builder = change(self.builder);
        self
    }

    pub(crate) fn noargs<F: NoArgs<T>>(self, name: &'static CStr, doc: &'static CStr, _f: F) -> Self {
        self.map(|builder| builder.noargs(name, doc, noargs::<T, F>))
    }

    pub(crate) fn onearg<F: OneArg<T>>(self, name: &'static CStr, doc: &'static CStr, _f: F) -> Self {
        self.map(|builder| builder.onearg(name, doc, onearg::<T, F>))
    }

    pub(crate) fn fastcall<F: Fastcall<T>>(self, name: &'static CStr, doc: &'static CStr, _f: F) -> Self {
        self.map(|builder| builder.fastcall(name, doc, fastcall::<T, F>))
    }

    pub(crate) fn get<F: NoArgs<T>>(self, name: &'static CStr, _f: F) -> Self {
        self.map(|builder| builder.getset(name, getter::<T, F>, None))
    }

    /// Deleting the attribute is an `AttributeError`.
    pub(crate) fn get_set<F: NoArgs<T>, G: Setter<T>>(self, name: &'static CStr, _get: F, _set: G) -> Self {
        self.map(|builder| builder.getset(name, getter::<T, F>, Some(setter::<T, G>)))
    }

    pub(crate) fn str<F: NoArgs<T>>(self, _f: F) -> Self {
        self.map(|builder| builder.slot(ffi::Py_tp_str, unary::<T, F> as *mut _))
    }

    pub(crate) fn repr<F: NoArgs<T>>(self, _f: F) -> Self {
        self.map(|builder| builder.slot(ffi::Py_tp_repr, unary::<T, F> as *mut _))
    }

    pub(crate) fn hash<F: Hash<T>>(self, _f: F) -> Self {
        self.map(|builder| builder.slot(ffi::Py_tp_hash, hash::<T, F> as *mut _))
    }

    /// All six comparisons. A type that has them has no hash unless it names one.
    pub(crate) fn compare<F: Compare<T>>(self, _f: F) -> Self {
        self.map(|builder| builder.slot(ffi::Py_tp_richcompare, compare::<T, F> as *mut _))
    }

    /// Instances of a type on `object` can be referenced weakly: `offset` is where in `T` the head of the list is, a null
    /// pointer that only the interpreter writes.
    pub(crate) fn weak_references(self, offset: usize) -> Self {
        let word = size_of::<*mut ffi::PyObject>();
        assert!(
            offset.is_multiple_of(word) && offset + word <= size_of::<T>(),
            "the head of the list is a word of the value"
        );
        let start = Class::<T>::offset_on(std::ptr::null_mut());
        self.map(|builder| builder.offset_member(c"__weaklistoffset__", start + offset))
    }

    pub(crate) fn iter<F: NoArgs<T>>(self, _f: F) -> Self {
        self.map(|builder| builder.slot(ffi::Py_tp_iter, unary::<T, F> as *mut _))
    }

    pub(crate) fn awaits<F: NoArgs<T>>(self, _f: F) -> Self {
        self.map(|builder| builder.slot(ffi::Py_am_await, unary::<T, F> as *mut _))
    }

    /// `tp_iter` and `am_await` of what is its own iterator.
    pub(crate) fn iterates_itself(self) -> Self {
        self.map(|builder| {
            let itself = ffi::PyObject_SelfIter as *mut _;
            builder.slot(ffi::Py_tp_iter, itself).slot(ffi::Py_am_await, itself)
        })
    }

    pub(crate) fn async_iter<F: NoArgs<T>>(self, _f: F) -> Self {
        self.map(|builder| builder.slot(ffi::Py_am_aiter, unary::<T, F> as *mut _))
    }

    pub(crate) fn async_next<F: NoArgs<T>>(self, _f: F) -> Self {
        self.map(|builder| builder.slot(ffi::Py_am_anext, unary::<T, F> as *mut _))
    }

    /// `tp_iternext`; `None` ends without an exception, which the interpreter reads as `StopIteration()`.
    pub(crate) fn next<F: Next<T>>(self, _f: F) -> Self {
        self.map(|builder| builder.slot(ffi::Py_tp_iternext, next::<T, F> as *mut _))
    }

    /// `am_send`: as `next`, but a value is returned as such.
    pub(crate) fn send<F: Send<T>>(self, _f: F) -> Self {
        self.map(|builder| builder.slot(ffi::Py_am_send, send::<T, F> as *mut _))
    }

    /// `tp_new` makes an instance with `T::default()`, whatever the arguments; `tp_init` is `f`.
    pub(crate) fn init<F: Init<T>>(self, _f: F) -> Self
    where
        T: Default,
    {
        self.map(|builder| {
            builder.slot(ffi::Py_tp_new, new::<T> as *mut _).slot(ffi::Py_tp_init, init::<T, F> as *mut _)
        })
    }
}

/// The interpreter's own messages name a class of C as `module.Class` and one of Python as `Class`; what programs
/// subclass is named like the latter.
fn use_short_name(made: &Obj) -> RawResult<()> {
    static NAME: Name = Name::new(c"__name__");
    // SAFETY: a type, whose `__name__` may be set because it is a mutable heap type; called with the GIL held.
    unsafe {
        let name = Obj::from_owned(ffi::PyObject_GetAttr(made.as_ptr(), NAME.as_ptr()))?;
        match ffi::PyObject_SetAttr(made.as_ptr(), NAME.as_ptr(), name.as_ptr()) {
            0 => Ok(()),
            _ => Err(Raised),
        }
    }
}

unsafe extern "C" fn noargs<T: Data, F: NoArgs<T>>(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor checked the class (see `Ref`); `self` is alive during the call.
    entry(|py| conjure::<F>()(py, unsafe { Ref::<T>::view(&this) }))
}

unsafe extern "C" fn unary<T: Data, F: NoArgs<T>>(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as in `noargs`; slots are called for instances of their type.
    entry(|py| conjure::<F>()(py, unsafe { Ref::<T>::view(&this) }))
}

unsafe extern "C" fn hash<T: Data, F: Hash<T>>(this: *mut ffi::PyObject) -> ffi::Py_hash_t {
    // SAFETY: as in `unary`.
    entry_hash(|py| conjure::<F>()(py, unsafe { Ref::<T>::view(&this) }))
}

unsafe extern "C" fn compare<T: Data, F: Compare<T>>(
    this: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
    op: c_int,
) -> *mut ffi::PyObject {
    entry(|py| {
        let op = CompareOp::from_raw(op).expect("one of the six comparisons");
        // SAFETY: as in `unary`: the interpreter swaps the operands and the comparison before it calls the slot of the
        // second one; `other` is alive during the call.
        conjure::<F>()(py, unsafe { Ref::<T>::view(&this) }, unsafe { Obj::view(&other) }, op)
    })
}

unsafe extern "C" fn getter<T: Data, F: NoArgs<T>>(
    this: *mut ffi::PyObject,
    _: *mut std::ffi::c_void,
) -> *mut ffi::PyObject {
    // SAFETY: as in `noargs`.
    entry(|py| conjure::<F>()(py, unsafe { Ref::<T>::view(&this) }))
}

unsafe extern "C" fn onearg<T: Data, F: OneArg<T>>(
    this: *mut ffi::PyObject,
    arg: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as in `noargs`; the argument is alive during the call.
    entry(|py| conjure::<F>()(py, unsafe { Ref::<T>::view(&this) }, unsafe { Obj::view(&arg) }))
}

unsafe extern "C" fn fastcall<T: Data, F: Fastcall<T>>(
    this: *mut ffi::PyObject,
    words: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    entry(|py| {
        // SAFETY: live references as the fastcall convention says. The name is for errors about arguments only.
        let args = unsafe { Args::new(words, count, keywords, "method") };
        // SAFETY: as in `noargs`.
        conjure::<F>()(py, unsafe { Ref::<T>::view(&this) }, &args)
    })
}

unsafe extern "C" fn setter<T: Data, F: Setter<T>>(
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    _: *mut std::ffi::c_void,
) -> c_int {
    entry_int(|py| {
        if value.is_null() {
            return Err(Raised::from_err(py, PyErr::new::<PyAttributeError, _>("cannot delete attribute")));
        }
        // SAFETY: as in `onearg`.
        conjure::<F>()(py, unsafe { Ref::<T>::view(&this) }, unsafe { Obj::view(&value) }).map(|()| 0)
    })
}

unsafe extern "C" fn next<T: Data, F: Next<T>>(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    entry(|py| {
        // SAFETY: as in `unary`.
        match conjure::<F>()(py, unsafe { Ref::<T>::view(&this) }) {
            Ok(Some(value)) => Ok(value),
            // Null without an exception: the end.
            Ok(None) => Err(Raised),
            Err(raised) => Err(raised),
        }
    })
}

unsafe extern "C" fn send<T: Data, F: Send<T>>(
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    let mut status = ffi::PySendResult::PYGEN_ERROR;
    let out = entry(|py| {
        // SAFETY: as in `onearg`.
        match conjure::<F>()(py, unsafe { Ref::<T>::view(&this) }, unsafe { Obj::view(&value) })? {
            Step::Yield(value) => {
                status = ffi::PySendResult::PYGEN_NEXT;
                Ok(value)
            }
            Step::Return(value) => {
                status = ffi::PySendResult::PYGEN_RETURN;
                Ok(value)
            }
        }
    });
    // SAFETY: the caller gives a place for the result.
    unsafe { *result = out };
    status
}

unsafe extern "C" fn new<T: Data + Default>(
    class: *mut ffi::PyTypeObject,
    _args: *mut ffi::PyObject,
    _keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    entry(|py| Ok(T::class().make_as(py, class, T::default())?.into_obj()))
}

unsafe extern "C" fn init<T: Data, F: Init<T>>(
    this: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> c_int {
    entry_int(|py| {
        // SAFETY: as in `noargs`; a tuple, and null or a dict, alive during the call.
        unsafe {
            let keywords = (!keywords.is_null()).then(|| Obj::view(&keywords));
            conjure::<F>()(py, Ref::<T>::view(&this), Obj::view(&args), keywords).map(|()| 0)
        }
    })
}

/// For `bound_function`: the C functions of a callable bound to an instance of `T`.
pub(super) fn bound_onearg<T: Data, F: OneArg<T>>() -> ffi::PyCFunction {
    onearg::<T, F>
}

/// As [`bound_onearg`].
pub(super) fn bound_noargs<T: Data, F: NoArgs<T>>() -> ffi::PyCFunction {
    noargs::<T, F>
}

/// A type made with [`Table::derived`], to recognise its instances by.
pub(crate) struct Derived(std::sync::atomic::AtomicPtr<ffi::PyTypeObject>);

impl Derived {
    pub(crate) const fn new() -> Derived {
        Derived(std::sync::atomic::AtomicPtr::new(std::ptr::null_mut()))
    }

    /// Once, at import; the type is kept for ever.
    pub(crate) fn set(&self, made: &Obj) {
        self.0.store(made.clone().into_ptr().cast(), std::sync::atomic::Ordering::Relaxed);
    }

    /// The type; `None` until it is made.
    pub(crate) fn type_obj(&self) -> Option<Obj> {
        let made = self.0.load(std::sync::atomic::Ordering::Relaxed);
        // SAFETY: null, or a type that is kept for ever.
        (!made.is_null()).then(|| unsafe { Obj::from_borrowed(made.cast()) })
    }

    /// Whether this very type is the type of `object`.
    #[inline]
    pub(crate) fn is(&self, object: &Obj) -> bool {
        object.type_ptr() == self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}
