//! What waits for its turn.
//!
//! An entry needs no Python object of its own: waking a task costs no Handle, no bound method and no call besides the
//! coroutine's own step.

use driver::Token;

use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;

pub(crate) enum Ready {
    /// `call_soon` and expired timers: an exact `Handle`, `TimerHandle` or `ThreadSafeHandle` of ours. Skipped if cancelled meanwhile.
    Handle(Obj),
    /// First step of one of our tasks, or a bare `yield`: `coro.send(None)`.
    Step(Obj),
    /// One of our tasks was waiting for `future`, which is done. The future may be anybody's.
    Wakeup { task: Obj, future: Obj },
    /// `inner` is done, which `outer`, a future of ours, waits for; see `linked.rs`.
    Linked { outer: Obj, inner: Obj },
    /// A done callback of one of our futures: `callback(future)` in `context`.
    DoneCallback { callback: Obj, future: Obj, context: Obj },
    /// Readiness of a file descriptor; only the event loop's dispatch knows whose. Nothing happens if it is gone.
    Io { token: Token, readable: bool, writable: bool },
    /// Native work that was asked for by `object` (a transport, a server, a native coroutine): `work` says which.
    /// Runs through the event loop's dispatch.
    Native { object: Obj, work: u32 },
}

impl Ready {
    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        match self {
            Ready::Handle(object) | Ready::Step(object) | Ready::Native { object, .. } => visitor.obj(object),
            Ready::Wakeup { task, future } => {
                visitor.obj(task);
                visitor.obj(future);
            }
            Ready::Linked { outer, inner } => {
                visitor.obj(outer);
                visitor.obj(inner);
            }
            Ready::DoneCallback { callback, future, context } => {
                visitor.obj(callback);
                visitor.obj(future);
                visitor.obj(context);
            }
            Ready::Io { .. } => {}
        }
    }
}
