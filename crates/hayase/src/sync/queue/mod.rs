//! `Queue`, `PriorityQueue`, `LifoQueue`.
//!
//! This file is the object: its fields, and what Python sees of it. Where items lie is in `storage.rs`, the rules are in
//! `rules.rs`, waiting is in `coroutines.rs`.
//!
//! A program may subclass a queue and override `_init`, `_put` and `_get`, or any other method: what it overrides is
//! called, as asyncio calls it. An object without overrides runs no Python code.

mod coroutines;
mod rules;
mod storage;

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::prelude::*;
use pyo3::types::{PyInt, PyModule, PyString};

use super::base::GET_LOOP_DOC;
use super::binding::Binding;
use super::copying::Copied;
use super::event;
use super::waiters::Waiters;
use crate::interop::{arguments, asyncio_class};
use crate::raw::attributes::Attributes;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::{Derived, Table};
use crate::raw::{RawResult, to_py, to_raw};
use storage::{Order, Storage};

#[repr(C)]
pub(crate) struct Queue {
    attributes: Attributes,
    binding: Binding,
    getters: Waiters,
    putters: Waiters,
    storage: Storage,
    /// `maxsize` as it was given.
    maxsize: ObjCell,
    limit: GilValue<Limit>,
    unfinished: GilValue<usize>,
    /// The event that `join` waits for; made when somebody does.
    finished: ObjCell,
    is_shutdown: GilValue<bool>,
    /// A subclass overrides methods that others here use: they are called by name.
    overridden: GilValue<bool>,
}

/// How many items there is room for.
#[derive(Clone, Copy)]
enum Limit {
    None,
    Items(usize),
    /// `maxsize` is no number that fits: Python compares it, which raises what it raises.
    Strange,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            attributes: Attributes::empty(),
            binding: Binding::none(),
            getters: Waiters::new(),
            putters: Waiters::new(),
            storage: Storage::new(),
            maxsize: ObjCell::empty(),
            limit: GilValue::new(Limit::None),
            unfinished: GilValue::new(0),
            finished: ObjCell::empty(),
            is_shutdown: GilValue::new(false),
            overridden: GilValue::new(false),
        }
    }
}

impl Data for Queue {
    const FREELIST: usize = 0;
    const SUBCLASSABLE: Option<usize> = Some(offset_of!(Queue, attributes));

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Queue> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.attributes.visit(visitor);
        self.binding.visit(visitor);
        self.getters.visit(visitor);
        self.putters.visit(visitor);
        self.storage.visit(visitor);
        visitor.cell(&self.maxsize);
        visitor.cell(&self.finished);
    }
    fn clear(&self) {
        self.attributes.clear();
        self.getters.clear();
        self.putters.clear();
        self.storage.clear();
        self.maxsize.set(None);
        self.finished.set(None);
        self.binding.clear();
    }
}

static PRIORITY: Derived = Derived::new();
static LIFO: Derived = Derived::new();

static FORMAT: Name = Name::new(c"_format");
static INIT: Name = Name::new(c"_init");

/// The methods that others use; a subclass that brings one of them is asked by name.
const HOOKS: [&str; 10] =
    ["_get", "_init", "_put", "empty", "full", "get_nowait", "maxsize", "put_nowait", "qsize", "_wakeup_next"];

/// Whether the class of `this` overrides any of [`HOOKS`]; and whose items-in-order methods it has.
fn is_overridden(py: Python<'_>, this: &Ref<Queue>) -> RawResult<(bool, Order)> {
    if this.is_exact() {
        return Ok((false, Order::Fifo));
    }
    if PRIORITY.is(this.as_obj()) {
        return Ok((false, Order::Heap));
    }
    if LIFO.is(this.as_obj()) {
        return Ok((false, Order::Lifo));
    }
    let look = || -> PyResult<(bool, Order)> {
        let class = this.as_obj().borrow(py).get_type();
        let base = Queue::class().type_obj().into_bound(py);
        let ours = [(Order::Heap, &PRIORITY), (Order::Lifo, &LIFO)];
        let (order, known) = ours
            .into_iter()
            .filter_map(|(order, derived)| Some((order, derived.type_obj()?.into_bound(py))))
            .find(|(_, known)| class.is_subclass(known).unwrap_or(false))
            .unwrap_or((Order::Fifo, base));
        for hook in HOOKS {
            if !class.getattr(hook)?.is(&known.getattr(hook)?) {
                return Ok((true, order));
            }
        }
        Ok((false, order))
    };
    to_raw(py, look())
}

fn initialise(py: Python<'_>, this: &Ref<Queue>, args: &Obj, keywords: Option<&Obj>) -> RawResult<()> {
    let maxsize = arguments::one(py, "Queue", Some("maxsize"), args, keywords)?;
    let maxsize = maxsize.unwrap_or_else(|| Obj::from_bound(PyInt::new(py, 0)));
    let (overridden, order) = is_overridden(py, this)?;
    this.limit.set(limit(py, &maxsize));
    this.maxsize.set(Some(maxsize.clone()));
    this.overridden.set(overridden);
    this.unfinished.set(0);
    this.is_shutdown.set(false);
    this.finished.set(None);
    this.storage.reset(py, order);
    if overridden {
        call::method(py, this.as_obj(), &INIT, &[&maxsize])?;
    }
    Ok(())
}

fn reduce(py: Python<'_>, this: &Ref<Queue>) -> RawResult<Obj> {
    let attributes = vec![
        // First, because it says what kind of queue this is; see its setter.
        ("_maxsize", this.maxsize.get().unwrap_or_else(|| Obj::none(py))),
        ("_queue", this.storage.as_object(py)?),
        ("_unfinished_tasks", number(py, this.unfinished.get())?),
        ("_is_shutdown", Obj::bool(py, this.is_shutdown.get())),
    ];
    let copied = Copied::new(this.attributes.dict(), attributes);
    let copied = copied.waiters(py, "_getters", &this.getters)?.waiters(py, "_putters", &this.putters)?;
    copied.reduce(py, this.as_obj(), &this.binding)
}

fn limit(py: Python<'_>, maxsize: &Obj) -> Limit {
    let maxsize = maxsize.borrow(py);
    if let Ok(items) = maxsize.cast::<PyInt>() {
        return match items.extract::<i64>() {
            Ok(items) if items <= 0 => Limit::None,
            Ok(items) => Limit::Items(items as usize),
            Err(_) => Limit::Strange,
        };
    }
    // asyncio compares it with numbers; what could only be made one is none.
    match maxsize.extract::<f64>() {
        Ok(items) if items <= 0.0 && maxsize.le(0).is_ok() => Limit::None,
        Ok(items) if items > 0.0 && maxsize.le(0).is_ok() => Limit::Items(items.ceil() as usize),
        Ok(_) | Err(_) => Limit::Strange,
    }
}

fn number(py: Python<'_>, value: usize) -> RawResult<Obj> {
    to_raw(py, value.into_pyobject(py).map_err(PyErr::from)).map(Obj::from_bound)
}

fn repr(py: Python<'_>, this: &Ref<Queue>) -> RawResult<Obj> {
    text(py, this, &format!(" at {:#x}", this.as_ptr() as usize))
}

fn text(py: Python<'_>, this: &Ref<Queue>, place: &str) -> RawResult<Obj> {
    let format = call::method(py, this.as_obj(), &FORMAT, &[])?;
    let name = to_raw(py, this.as_obj().borrow(py).get_type().name())?;
    let text = format!("<{name}{place} {}>", &*format.borrow(py));
    Ok(Obj::from_bound(PyString::new(py, &text)))
}

/// `_format()`
fn format(py: Python<'_>, this: &Ref<Queue>) -> RawResult<Obj> {
    let describe = || -> PyResult<String> {
        let maxsize = this.maxsize.get().unwrap_or_else(|| Obj::none(py));
        let mut text = format!("maxsize={}", maxsize.borrow(py).repr()?);
        let items = to_py(py, this.storage.list(py))?.into_bound(py);
        if items.len()? > 0 {
            text += &format!(" _queue={}", items.repr()?);
        }
        for (name, waiting) in [("_getters", this.getters.len(py)), ("_putters", this.putters.len(py))] {
            if waiting > 0 {
                text += &format!(" {name}[{waiting}]");
            }
        }
        if this.unfinished.get() > 0 {
            text += &format!(" tasks={}", this.unfinished.get());
        }
        if this.is_shutdown.get() {
            text += " shutdown";
        }
        Ok(text)
    };
    to_raw(py, describe()).map(|text| Obj::from_bound(PyString::new(py, &text)))
}

static IMMEDIATE: Name = Name::new(c"immediate");
static ITEM: Name = Name::new(c"item");

/// The one argument of `put(item)`.
#[inline]
fn item(py: Python<'_>, args: &Args<'_>, function: &'static str) -> RawResult<Obj> {
    if args.len() == 1 && args.keyword_count() == 0 {
        return Ok(args.get(0).expect("one"));
    }
    args.named(function).only(py, &ITEM)
}

fn shutdown(py: Python<'_>, this: &Ref<Queue>, args: &Args<'_>) -> RawResult<Obj> {
    let [immediate] = args.named("Queue.shutdown").bind(py, [&IMMEDIATE], 0)?;
    let immediate = match immediate {
        Some(immediate) => call::is_true(py, &immediate)?,
        None => false,
    };
    this.shut_down(py, immediate)?;
    Ok(Obj::none(py))
}

/// `_finished`: made when it is asked for.
fn finished(py: Python<'_>, this: &Ref<Queue>) -> RawResult<Obj> {
    if let Some(finished) = this.finished.get() {
        return Ok(finished);
    }
    let finished = event::make(py, this.unfinished.get() == 0)?.into_obj();
    this.finished.set(Some(finished.clone()));
    Ok(finished)
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &CStr = c"Queue(maxsize=0)\n--\n\nItems from tasks to tasks, first in, first out.\n\nWith a positive \
        maxsize, put waits while the queue is full. Who waits is served in the order of arrival.";
    let table = Table::<Queue>::new(c"hayase.queues.Queue", DOC, std::ptr::null_mut(), 0)
        .get(c"__class__", asyncio_class::of)
        .noargs(c"qsize", c"qsize($self, /)\n--\n\nHow many items are in the queue.", |py: Python<'_>, this| {
            number(py, Ref::<Queue>::len(this, py)?)
        })
        .noargs(c"empty", c"empty($self, /)\n--\n\nWhether there is no item.", |py: Python<'_>, this: &Ref<Queue>| {
            Ok(Obj::bool(py, this.storage.len(py)? == 0))
        })
        .noargs(c"full", c"full($self, /)\n--\n\nWhether there are maxsize items.", |py: Python<'_>, this: &Ref<Queue>| {
            Ok(Obj::bool(py, this.full_by_size(py)?))
        })
        .fastcall(
            c"put",
            c"put($self, /, item)\n--\n\nWait until there is room and put an item in.\n\nRaises QueueShutDown if the queue \
              was shut down.",
            |py: Python<'_>, this: &Ref<Queue>, args: &Args<'_>| {
                let item = item(py, args, "Queue.put")?;
                coroutines::put(py, this, item)
            },
        )
        .fastcall(
            c"put_nowait",
            c"put_nowait($self, /, item)\n--\n\nPut an item in; QueueFull if there is no room, QueueShutDown if the queue \
              was shut down.",
            |py: Python<'_>, this: &Ref<Queue>, args: &Args<'_>| {
                let item = item(py, args, "Queue.put_nowait")?;
                this.put_now(py, item)?;
                Ok(Obj::none(py))
            },
        )
        .noargs(
            c"get",
            c"get($self, /)\n--\n\nWait for an item, take it out and return it.\n\nRaises QueueShutDown if the queue was shut \
              down and is empty.",
            |py: Python<'_>, this: &Ref<Queue>| coroutines::get(py, this),
        )
        .noargs(
            c"get_nowait",
            c"get_nowait($self, /)\n--\n\nTake an item out; QueueEmpty if there is none, QueueShutDown if the queue was shut \
              down and is empty.",
            |py: Python<'_>, this: &Ref<Queue>| this.get_now(py),
        )
        .noargs(
            c"task_done",
            c"task_done($self, /)\n--\n\nSay that an item that was got is dealt with; `join` waits for that.\n\nValueError if \
              said more often than there were items.",
            |py: Python<'_>, this: &Ref<Queue>| this.task_done(py).map(|()| Obj::none(py)),
        )
        .noargs(
            c"join",
            c"join($self, /)\n--\n\nWait until every item that was put in is dealt with.",
            |py: Python<'_>, this: &Ref<Queue>| coroutines::join(py, this),
        )
        .fastcall(
            c"shutdown",
            c"shutdown($self, /, immediate=False)\n--\n\nNo more items: put raises QueueShutDown, and so does get once the \
              queue is empty.\n\nimmediate: throw away the items there are, as if they were dealt with.",
            shutdown,
        )
        .onearg(c"_init", c"For subclasses: make the container of the items.", |py: Python<'_>, this: &Ref<Queue>, _| {
            this.storage.reset(py, Order::Fifo);
            Ok(Obj::none(py))
        })
        .onearg(c"_put", c"For subclasses: put an item into the container.", |py, this: &Ref<Queue>, item: &Obj| {
            this.storage.put(py, Order::Fifo, item.clone()).map(|()| Obj::none(py))
        })
        .noargs(c"_get", c"For subclasses: take an item out of the container.", |py, this: &Ref<Queue>| {
            this.storage.get(py, Order::Fifo)
        })
        .noargs(c"_format", c"What repr says.", format)
        .onearg(c"_wakeup_next", c"Wake the first of a deque of waiters.", wakeup_next)
        .get(c"maxsize", |py: Python<'_>, this: &Ref<Queue>| Ok(this.maxsize.get().unwrap_or_else(|| Obj::none(py))))
        .get_set(
            c"_maxsize",
            |py: Python<'_>, this: &Ref<Queue>| Ok(this.maxsize.get().unwrap_or_else(|| Obj::none(py))),
            |py: Python<'_>, this: &Ref<Queue>, value: &Obj| {
                if this.maxsize.is_none() {
                    // A copy, made without `__init__`.
                    let (overridden, order) = is_overridden(py, this)?;
                    this.overridden.set(overridden);
                    this.storage.reset(py, order);
                }
                this.limit.set(limit(py, value));
                this.maxsize.set(Some(value.clone()));
                Ok(())
            },
        )
        .get_set(
            c"_queue",
            |py: Python<'_>, this: &Ref<Queue>| this.storage.as_object(py),
            |_py: Python<'_>, this: &Ref<Queue>, value: &Obj| {
                this.storage.replace(value.clone());
                Ok(())
            },
        )
        .get_set(
            c"_getters",
            |py: Python<'_>, this: &Ref<Queue>| this.getters.as_deque(py),
            |py: Python<'_>, this: &Ref<Queue>, value: &Obj| {
                this.getters.replace(py, value);
                Ok(())
            },
        )
        .get_set(
            c"_putters",
            |py: Python<'_>, this: &Ref<Queue>| this.putters.as_deque(py),
            |py: Python<'_>, this: &Ref<Queue>, value: &Obj| {
                this.putters.replace(py, value);
                Ok(())
            },
        )
        .get(c"_finished", finished)
        .get_set(
            c"_unfinished_tasks",
            |py: Python<'_>, this: &Ref<Queue>| number(py, this.unfinished.get()),
            |py: Python<'_>, this: &Ref<Queue>, value: &Obj| {
                this.unfinished.set(to_raw(py, value.borrow(py).extract())?);
                Ok(())
            },
        )
        .get_set(
            c"_is_shutdown",
            |py: Python<'_>, this: &Ref<Queue>| Ok(Obj::bool(py, this.is_shutdown.get())),
            |py: Python<'_>, this: &Ref<Queue>, value: &Obj| {
                this.is_shutdown.set(call::is_true(py, value)?);
                Ok(())
            },
        )
        .get_set(
            c"_loop",
            |py: Python<'_>, this: &Ref<Queue>| Ok(this.binding.get(py)),
            |_py: Python<'_>, this: &Ref<Queue>, value: &Obj| {
                this.binding.set(value);
                Ok(())
            },
        )
        .class_getitem()
        .noargs(c"_get_loop", GET_LOOP_DOC, |py: Python<'_>, this: &Ref<Queue>| {
            this.binding.running_loop(py, this.as_obj())
        })
        .noargs(c"__reduce__", c"For copy and pickle.", reduce)
        .repr(repr)
        .str(|py: Python<'_>, this: &Ref<Queue>| text(py, this, ""))
        .init(initialise);
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Queue", Queue::class().type_obj().into_bound(py))?;

    const PRIORITY_DOC: &CStr =
        c"PriorityQueue(maxsize=0)\n--\n\nA Queue that gives the smallest item first, as heapq orders them.";
    let priority = Table::<Queue>::derived(c"hayase.queues.PriorityQueue", PRIORITY_DOC)
        .onearg(c"_init", c"Make the container of the items.", |py: Python<'_>, this: &Ref<Queue>, _: &Obj| {
            this.storage.reset(py, Order::Heap);
            Ok(Obj::none(py))
        })
        .onearg(c"_put", c"Put an item into the heap.", |py: Python<'_>, this: &Ref<Queue>, item: &Obj| {
            this.storage.put(py, Order::Heap, item.clone()).map(|()| Obj::none(py))
        })
        .noargs(c"_get", c"Take the smallest item out.", |py: Python<'_>, this: &Ref<Queue>| {
            this.storage.get(py, Order::Heap)
        });
    let priority = to_py(py, priority.build_derived())?;
    PRIORITY.set(&priority);
    module.add("PriorityQueue", priority.into_bound(py))?;

    const LIFO_DOC: &CStr = c"LifoQueue(maxsize=0)\n--\n\nA Queue that gives the item that was put in last.";
    let lifo = Table::<Queue>::derived(c"hayase.queues.LifoQueue", LIFO_DOC)
        .onearg(c"_init", c"Make the container of the items.", |py: Python<'_>, this: &Ref<Queue>, _: &Obj| {
            this.storage.reset(py, Order::Lifo);
            Ok(Obj::none(py))
        })
        .onearg(c"_put", c"Put an item on top.", |py: Python<'_>, this: &Ref<Queue>, item: &Obj| {
            this.storage.put(py, Order::Lifo, item.clone()).map(|()| Obj::none(py))
        })
        .noargs(c"_get", c"Take the top item.", |py: Python<'_>, this: &Ref<Queue>| this.storage.get(py, Order::Lifo));
    let lifo = to_py(py, lifo.build_derived())?;
    LIFO.set(&lifo);
    module.add("LifoQueue", lifo.into_bound(py))
}

/// `_wakeup_next(waiters)`: for subclasses that keep waiters of their own.
fn wakeup_next(py: Python<'_>, _this: &Ref<Queue>, waiters: &Obj) -> RawResult<Obj> {
    static POPLEFT: Name = Name::new(c"popleft");
    while call::is_true(py, waiters)? {
        let waiter = call::method(py, waiters, &POPLEFT, &[])?;
        if !crate::tasks::wait::is_done(py, &waiter)? {
            crate::tasks::wait::set_result(py, &waiter, Obj::none(py))?;
            break;
        }
    }
    Ok(Obj::none(py))
}
