//! Where the items of a queue lie.
//!
//! In a native deque, as long as nobody looks: whoever reads `queue._queue` gets a real container (a `deque`, for a
//! `LifoQueue` a list), which holds the items from then on. So `queue._queue.clear()` does what it does with asyncio's.
//! A heap is always a list, because `heapq` works on lists.

use std::collections::VecDeque;

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};

/// In which order items come out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Fifo,
    Lifo,
    Heap,
}

pub(super) struct Storage {
    items: GilCell<VecDeque<Obj>>,
    /// The container that Python knows; then `items` is empty.
    object: ObjCell,
    order: GilValue<Order>,
}

static APPEND: Name = Name::new(c"append");
static POP: Name = Name::new(c"pop");
static POPLEFT: Name = Name::new(c"popleft");

impl Storage {
    pub(super) const fn new() -> Storage {
        Storage { items: GilCell::new(VecDeque::new()), object: ObjCell::empty(), order: GilValue::new(Order::Fifo) }
    }

    /// Empty, from now on in `order`.
    pub(super) fn reset(&self, py: Python<'_>, order: Order) {
        self.order.set(order);
        let heap = (order == Order::Heap).then(|| Obj::from_bound(PyList::empty(py)));
        let (object, items) = (self.object.replace(heap), self.items.with(py, std::mem::take));
        drop((object, items));
    }

    pub(super) fn order(&self) -> Order {
        self.order.get()
    }

    #[inline]
    pub(super) fn len(&self, py: Python<'_>) -> RawResult<usize> {
        if self.object.is_none() {
            return Ok(self.items.with(py, |items| items.len()));
        }
        match self.object.get() {
            Some(object) => to_raw(py, object.borrow(py).len()),
            None => Ok(0),
        }
    }

    #[inline]
    pub(super) fn put(&self, py: Python<'_>, order: Order, item: Obj) -> RawResult<()> {
        if self.object.is_none() && order != Order::Heap {
            return self.items.append(py, item);
        }
        let object = self.as_object(py)?;
        match order {
            Order::Fifo | Order::Lifo => call::method(py, &object, &APPEND, &[&item]).map(drop),
            Order::Heap => {
                let push = imports::raw(py, imports::heappush(py))?;
                call::call_n(py, &push, &[&object, &item]).map(drop)
            }
        }
    }

    #[inline]
    pub(super) fn get(&self, py: Python<'_>, order: Order) -> RawResult<Obj> {
        if self.object.is_none() && order != Order::Heap {
            let item = self.items.with(py, |items| match order {
                Order::Fifo | Order::Heap => items.pop_front(),
                Order::Lifo => items.pop_back(),
            });
            return item.ok_or_else(|| nothing_there(py, order));
        }
        let object = self.as_object(py)?;
        match order {
            Order::Fifo => call::method(py, &object, &POPLEFT, &[]),
            Order::Lifo => call::method(py, &object, &POP, &[]),
            Order::Heap => call::call1(py, &imports::raw(py, imports::heappop(py))?, &object),
        }
    }

    /// A list of the items, to look at.
    pub(super) fn list(&self, py: Python<'_>) -> RawResult<Obj> {
        match self.object.get() {
            Some(object) => to_raw(
                py,
                object.borrow(py).try_iter().and_then(|items| {
                    let list = PyList::empty(py);
                    for item in items {
                        list.append(item?)?;
                    }
                    Ok(Obj::from_bound(list))
                }),
            ),
            None => {
                let items: Vec<Obj> = self.items.with(py, |items| items.iter().cloned().collect());
                to_raw(py, list_of(py, items))
            }
        }
    }

    /// `_queue`: the container, which holds the items from now on.
    pub(super) fn as_object(&self, py: Python<'_>) -> RawResult<Obj> {
        if let Some(object) = self.object.get() {
            return Ok(object);
        }
        let items: Vec<Obj> = self.items.with(py, std::mem::take).into();
        let list = to_raw(py, list_of(py, items))?;
        let object = match self.order.get() {
            Order::Fifo => call::call1(py, &imports::raw(py, imports::deque(py))?, &list)?,
            Order::Lifo | Order::Heap => list,
        };
        self.object.set(Some(object.clone()));
        Ok(object)
    }

    /// `_queue = object`
    pub(super) fn replace(&self, object: Obj) {
        self.object.set(Some(object));
    }

    pub(super) fn visit(&self, visitor: &mut Visitor<'_>) {
        self.items.peek(|items| items.iter().for_each(|item| visitor.obj(item)));
        visitor.cell(&self.object);
    }

    pub(super) fn clear(&self) {
        drop(self.items.take_to_clear());
        self.object.set(None);
    }
}

fn list_of(py: Python<'_>, items: Vec<Obj>) -> PyResult<Obj> {
    let list = PyList::empty(py);
    for item in items {
        list.append(item.into_bound(py))?;
    }
    Ok(Obj::from_bound(list))
}

#[cold]
fn nothing_there(py: Python<'_>, order: Order) -> Raised {
    let text = if order == Order::Lifo { "pop from empty list" } else { "pop from an empty deque" };
    Raised::from_err(py, PyIndexError::new_err(text))
}
