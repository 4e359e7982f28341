//! Instances of our raw types: an object header (or a foreign base), then a Rust value.
//!
//! `tasks` defines the values ([`Data`]) and works on them in safe Rust through [`Ref`]; this file owns what is unsafe
//! about it: where the value lies, when it is written, visited, cleared, dropped and reused.
//!
//! Must stay true
//! - A `Ref<T>` points to an instance of exactly the class of `T`, or of a subclass where `T` allows them
//!   ([`Data::SUBCLASSABLE`]); the value lies at the same place in both, because such types have `object` as their base.
//! - The value is written before anybody else sees the object, and dropped once, in `dealloc`.
//! - An object goes to the freelist only if it was never finalized: a reused one would never get `__del__` again.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::cell::{GilCell, ObjCell};
use super::compat;
use super::obj::Obj;
use super::{RawResult, entry_infallible, entry_traverse};

/// The Rust value of a raw type.
pub(crate) trait Data: Sized + 'static {
    /// Whether [`Data::finalize`] does anything; then `tp_finalize` is set.
    const FINALIZE: bool = false;
    /// How many dead objects are kept for reuse.
    const FREELIST: usize;

    fn class() -> &'static Class<Self>;
    /// Visits every reference, and nothing else.
    fn visit(&self, visitor: &mut Visitor<'_>);
    /// Drops every reference that can be part of a cycle.
    fn clear(&self);
    /// `__del__`: may run Python code and may resurrect the object.
    fn finalize(_py: Python<'_>, _this: &Ref<Self>) {}
    /// Whether the finalizer has something to do for a dying object (checked first because asking is cheap).
    fn wants_finalizer(&self) -> bool {
        false
    }
    /// Where in the value its [`super::attributes::Attributes`] lie, for a class that programs may subclass; `None` for a
    /// final one.
    const SUBCLASSABLE: Option<usize> = None;
    /// Whether [`Data::unlink`] does anything.
    const UNLINK: bool = false;
    /// Last act before the value is dropped: unlink what others know of this object by address. Keeps no reference.
    fn unlink(_py: Python<'_>, _this: &Ref<Self>) {}
}

/// What the process knows of a raw type.
pub(crate) struct Class<T> {
    type_object: AtomicPtr<ffi::PyTypeObject>,
    offset: AtomicUsize,
    free: GilCell<Vec<*mut ffi::PyObject>>,
    _data: PhantomData<fn(T)>,
}

impl<T: Data> Class<T> {
    pub(crate) const fn new() -> Class<T> {
        Class {
            type_object: AtomicPtr::new(std::ptr::null_mut()),
            offset: AtomicUsize::new(0),
            free: GilCell::new(Vec::new()),
            _data: PhantomData,
        }
    }

    /// Size of an instance of `T` on `base` (null: `object`).
    pub(crate) fn basic_size(base: *mut ffi::PyTypeObject) -> usize {
        Self::offset_on(base) + size_of::<T>()
    }

    pub(crate) fn offset_on(base: *mut ffi::PyTypeObject) -> usize {
        let head = if base.is_null() {
            size_of::<ffi::PyObject>()
        } else {
            // SAFETY: a ready type.
            unsafe { (*base).tp_basicsize as usize }
        };
        head.next_multiple_of(align_of::<T>())
    }

    /// Remembers the made type; once, at import. The reference is kept for ever.
    pub(crate) fn set(&self, type_object: Obj, base: *mut ffi::PyTypeObject) {
        self.offset.store(Self::offset_on(base), Ordering::Relaxed);
        self.type_object.store(type_object.into_ptr().cast(), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn type_ptr(&self) -> *mut ffi::PyTypeObject {
        self.type_object.load(Ordering::Relaxed)
    }

    /// The type as an object.
    pub(crate) fn type_obj(&self) -> Obj {
        // SAFETY: set at import and kept for ever.
        unsafe { Obj::from_borrowed(self.type_ptr().cast()) }
    }

    #[inline]
    fn data(&self, this: *mut ffi::PyObject) -> *mut T {
        // SAFETY: callers pass instances of this class, which are `basic_size` long.
        unsafe { this.cast::<u8>().add(self.offset.load(Ordering::Relaxed)).cast() }
    }

    /// Whether `object` is an instance of this very class.
    #[inline]
    pub(crate) fn is_exact(&self, object: *mut ffi::PyObject) -> bool {
        // SAFETY: callers pass live objects.
        !object.is_null() && unsafe { ffi::Py_TYPE(object) } == self.type_ptr()
    }

    /// A new instance that holds `data`.
    #[inline]
    pub(crate) fn make(&self, py: Python<'_>, data: T) -> RawResult<Ref<T>> {
        let reused = if T::FREELIST > 0 { self.free.with(py, Vec::pop) } else { None };
        let this = match reused {
            // SAFETY: the object was an instance of this class, its base is empty, its value was dropped, its count
            // is zero and the collector does not know it; now it lives again, with a reference to its type.
            Some(this) => unsafe {
                ffi::Py_INCREF(self.type_ptr().cast());
                compat::_Py_NewReference(this);
                self.data(this).write(data);
                ffi::PyObject_GC_Track(this.cast());
                this
            },
            // SAFETY: the generic allocation gives zeroed memory of `basic_size` bytes or null with an exception; it
            // tracks the object, but nothing can visit it before the value is written (no allocation in between).
            None => unsafe {
                let this = ffi::PyType_GenericAlloc(self.type_ptr(), 0);
                if this.is_null() {
                    drop(data);
                    return Err(super::Raised);
                }
                self.data(this).write(data);
                this
            },
        };
        // SAFETY: a new reference to an instance of this class.
        Ok(Ref(unsafe { Obj::from_owned(this)? }, PhantomData))
    }

    /// A new instance of `class`, which is this class or a subclass (`tp_new` is called with no other).
    pub(super) fn make_as(&self, py: Python<'_>, class: *mut ffi::PyTypeObject, data: T) -> RawResult<Ref<T>> {
        if class == self.type_ptr() {
            return self.make(py, data);
        }
        assert!(T::SUBCLASSABLE.is_some(), "a subclass of a final type");
        // SAFETY: as in `make`; a subclass may add fields behind the value, and its own way to allocate.
        unsafe {
            let allocate = (*class).tp_alloc.unwrap_or(ffi::PyType_GenericAlloc);
            let this = allocate(class, 0);
            if this.is_null() {
                drop(data);
                return Err(super::Raised);
            }
            self.data(this).write(data);
            Ok(Ref(Obj::from_owned(this)?, PhantomData))
        }
    }
}

/// One owned reference to an instance of the class of `T`.
#[repr(transparent)]
pub(crate) struct Ref<T>(Obj, PhantomData<fn(T)>);

impl<T: Data> Ref<T> {
    /// A view of a borrowed pointer, for the length of a slot call.
    ///
    /// # Safety
    /// `this` is a live instance of exactly the class of `T`.
    #[inline]
    pub(crate) unsafe fn view(this: &*mut ffi::PyObject) -> &Ref<T> {
        // SAFETY: `Ref` is transparent over a non-null pointer; the reference is not counted and lives shorter than
        // the caller's.
        unsafe { &*std::ptr::from_ref(this).cast::<Ref<T>>() }
    }

    /// The same as a view of another reference.
    #[inline]
    pub(crate) fn view_obj(object: &Obj) -> Option<&Ref<T>> {
        if T::class().is_exact(object.as_ptr()) {
            // SAFETY: exact class, checked; both are transparent over the same pointer.
            Some(unsafe { &*std::ptr::from_ref(object).cast::<Ref<T>>() })
        } else {
            None
        }
    }

    /// As [`Ref::view_obj`], for instances of subclasses too.
    #[inline]
    pub(crate) fn view_instance(object: &Obj) -> Option<&Ref<T>> {
        let class = T::class().type_ptr();
        // SAFETY: a live object; the class, or a subclass of one that allows them, has the value at the same place.
        unsafe {
            let is_instance = object.type_ptr() == class
                || (T::SUBCLASSABLE.is_some() && ffi::PyType_IsSubtype(object.type_ptr(), class) != 0);
            is_instance.then(|| &*std::ptr::from_ref(object).cast::<Ref<T>>())
        }
    }

    /// As [`Ref::view_instance`], of a reference that becomes this one.
    #[inline]
    pub(crate) fn from_instance(object: Obj) -> Option<Ref<T>> {
        Ref::<T>::view_instance(&object).is_some().then(|| Ref(object, PhantomData))
    }

    /// Whether this is an instance of the class itself, of no subclass.
    #[inline]
    pub(crate) fn is_exact(&self) -> bool {
        self.0.type_ptr() == T::class().type_ptr()
    }

    #[inline]
    pub(crate) fn as_obj(&self) -> &Obj {
        &self.0
    }
    #[inline]
    pub(crate) fn into_obj(self) -> Obj {
        self.0
    }
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.0.as_ptr()
    }
}

impl<T> Clone for Ref<T> {
    fn clone(&self) -> Self {
        Ref(self.0.clone(), PhantomData)
    }
}

impl<T: Data> Deref for Ref<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: an instance of the class of `T` (see the head), alive as long as `self`.
        unsafe { &*T::class().data(self.0.as_ptr()) }
    }
}

/// Visits references for the collector.
pub(crate) struct Visitor<'a> {
    how: How<'a>,
    stopped: c_int,
}

enum How<'a> {
    Slot { visit: ffi::visitproc, arg: *mut c_void },
    PyO3 { visit: &'a PyVisit<'a>, error: Option<PyTraverseError> },
}

impl<'a> Visitor<'a> {
    fn slot(visit: ffi::visitproc, arg: *mut c_void) -> Visitor<'a> {
        Visitor { how: How::Slot { visit, arg }, stopped: 0 }
    }

    /// For `__traverse__` of a PyO3 class.
    pub(crate) fn traverse(visit: &PyVisit<'_>, body: impl FnOnce(&mut Visitor<'_>)) -> Result<(), PyTraverseError> {
        let mut visitor = Visitor { how: How::PyO3 { visit, error: None }, stopped: 0 };
        body(&mut visitor);
        match visitor.how {
            How::PyO3 { error: Some(error), .. } => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn cell(&mut self, cell: &ObjCell) {
        self.ptr(cell.as_ptr());
    }
    pub(crate) fn obj(&mut self, object: &Obj) {
        self.ptr(object.as_ptr());
    }
    pub(crate) fn ptr(&mut self, object: *mut ffi::PyObject) {
        if self.stopped != 0 || object.is_null() {
            return;
        }
        match &mut self.how {
            // SAFETY: a live object and the collector's own argument.
            How::Slot { visit, arg } => self.stopped = unsafe { visit(object, *arg) },
            How::PyO3 { visit, error } => {
                // SAFETY: `Py` is transparent over a non-null pointer; borrowed for the call, not counted.
                let object = unsafe { &*std::ptr::from_ref(&object).cast::<Py<PyAny>>() };
                if let Err(stop) = visit.call(object) {
                    *error = Some(stop);
                    self.stopped = 1;
                }
            }
        }
    }
}

/// `tp_traverse` of the class of `T` (base `object`).
pub(crate) unsafe extern "C" fn traverse<T: Data>(
    this: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    entry_traverse(|| {
        let mut visitor = Visitor::slot(visit, arg);
        // SAFETY: called for instances of this class.
        unsafe {
            visitor.ptr(ffi::Py_TYPE(this).cast());
            (*T::class().data(this)).visit(&mut visitor);
        }
        visitor.stopped
    })
}

/// `tp_traverse` for a class with a foreign base, whose own traverse visits the type too.
pub(crate) unsafe extern "C" fn traverse_with_base<T: Data>(
    this: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    entry_traverse(|| {
        // SAFETY: the class has a base with its own traverse, and `this` is an instance of both.
        unsafe {
            let class = T::class().type_ptr();
            let base = (*class).tp_base;
            let mut visitor = Visitor::slot(visit, arg);
            if compat::BASE_STAYS_EMPTY {
                // Two cache lines of nulls that every collection would touch.
                visitor.ptr(class.cast());
                visitor.stopped = visitor.stopped.max(compat::visit_dict(this, (*class).tp_dictoffset, visit, arg));
            } else {
                let Some(base_traverse) = (*base).tp_traverse else {
                    return 0;
                };
                visitor.stopped = base_traverse(this, visit, arg);
            }
            (*T::class().data(this)).visit(&mut visitor);
            visitor.stopped
        }
    })
}

/// `tp_clear`, with the base's if it has one.
pub(crate) unsafe extern "C" fn clear<T: Data>(this: *mut ffi::PyObject) -> c_int {
    entry_infallible(0, |_py| {
        // SAFETY: called for instances of this class.
        unsafe {
            (*T::class().data(this)).clear();
            let base = (*T::class().type_ptr()).tp_base;
            if let Some(base_clear) = (*base).tp_clear {
                base_clear(this);
            }
        }
        0
    })
}

/// `tp_finalize`.
pub(crate) unsafe extern "C" fn finalize<T: Data>(this: *mut ffi::PyObject) {
    entry_infallible((), |py| {
        // An exception that is set when an object dies belongs to somebody else: kept aside.
        let pending = compat::take_raised(py);
        // SAFETY: called for live instances of this class.
        T::finalize(py, unsafe { Ref::<T>::view(&this) });
        compat::restore_raised(py, pending);
    });
}

/// `tp_dealloc` for a class on `object`.
pub(crate) unsafe extern "C" fn dealloc<T: Data>(this: *mut ffi::PyObject) {
    entry_infallible((), |py| {
        // SAFETY: the count is zero; the order is: finalizer (may resurrect), untrack, weak references, value, memory.
        unsafe {
            let class = T::class();
            if T::FINALIZE && (*class.data(this)).wants_finalizer() && ffi::PyObject_CallFinalizerFromDealloc(this) < 0
            {
                return;
            }
            ffi::PyObject_GC_UnTrack(this.cast());
            unlink::<T>(py, this);
            let type_object = class.type_ptr();
            compat::clear_weak_references(this, (*type_object).tp_weaklistoffset);
            release(py, class, this);
        }
    });
}

/// Runs [`Data::unlink`] with the count at one, so that it can pass the object on.
///
/// # Safety
/// In the dealloc of an instance of the class of `T`, which is untracked.
#[inline]
unsafe fn unlink<T: Data>(py: Python<'_>, this: *mut ffi::PyObject) {
    if !T::UNLINK {
        return;
    }
    // SAFETY: the count is zero and nobody else knows the object; whoever is called gives back what it takes, so the
    // second write is back at zero without a second dealloc.
    unsafe {
        compat::set_count(this, 1);
        T::unlink(py, Ref::<T>::view(&this));
        debug_assert_eq!(ffi::Py_REFCNT(this), 1);
        compat::set_count(this, 0);
    }
}

/// `tp_dealloc` for a class with a foreign base, whose part is emptied by the base's own `tp_clear`: that knows its
/// fields (also `_asyncio_awaited_by`, which others fill) and the instance dict, on every version.
pub(crate) unsafe extern "C" fn dealloc_with_base<T: Data>(this: *mut ffi::PyObject) {
    entry_infallible((), |py| {
        // SAFETY: as in `dealloc`; the base's clear may be called at any time, and leaves its fields null.
        unsafe {
            let class = T::class();
            if T::FINALIZE && (*class.data(this)).wants_finalizer() && ffi::PyObject_CallFinalizerFromDealloc(this) < 0
            {
                return;
            }
            ffi::PyObject_GC_UnTrack(this.cast());
            unlink::<T>(py, this);
            let type_object = class.type_ptr();
            compat::clear_weak_references(this, (*type_object).tp_weaklistoffset);
            if let Some(base_clear) = (*(*type_object).tp_base).tp_clear {
                base_clear(this);
            }
            release(py, class, this);
        }
    });
}

/// Drops the value; keeps the memory for the next instance or frees it.
///
/// # Safety
/// The last act of a dealloc: untracked, nothing outside the value is left to release.
#[inline]
unsafe fn release<T: Data>(py: Python<'_>, class: &Class<T>, this: *mut ffi::PyObject) {
    // SAFETY: the caller's promise. For an instance of a subclass the interpreter's own dealloc has released what the
    // subclass added, and leaves the reference to the type to the dealloc of a base that is a heap type: this one.
    unsafe {
        let type_object = ffi::Py_TYPE(this);
        class.data(this).drop_in_place();
        let reusable = T::FREELIST > 0
            && type_object == class.type_ptr()
            && (!T::FINALIZE || ffi::PyObject_GC_IsFinalized(this) == 0)
            && class.free.with(py, |free| {
                let room = free.len() < T::FREELIST;
                if room {
                    free.push(this);
                }
                room
            });
        if !reusable {
            ffi::PyObject_GC_Del(this.cast());
        }
        ffi::Py_DECREF(type_object.cast());
    }
}
