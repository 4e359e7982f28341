//! The only file that knows every receiver: from a slot to the object behind it.
//!
//! An event whose token is of an earlier generation belongs to somebody who is gone, and reaches nobody.

use driver::Token;
use pyo3::prelude::*;

use super::watchers::Watcher;
use super::{Loop, work_item};
use crate::raw::RawResult;
use crate::raw::obj::Obj;
use crate::runtime::slots::SlotKind;
use crate::transports;

pub(super) fn ready(py: Python<'_>, event_loop: &Loop, token: Token, readable: bool, writable: bool) -> RawResult<()> {
    let slot = event_loop.runtime.slots.with(py, |slots| slots.get(token).map(|slot| (slot.kind, slot.object.clone())));
    let Some((kind, object)) = slot else {
        return Ok(());
    };
    match kind {
        SlotKind::Stream => transports::stream::on_ready(py, &object, readable, writable),
        SlotKind::ReadPipe => transports::pipe::read::on_ready(py, &object, readable),
        SlotKind::WritePipe => transports::pipe::write::on_ready(py, &object, readable, writable),
        SlotKind::Child => transports::child::on_ready(py, &object),
        SlotKind::Datagram => transports::datagram::on_ready(py, &object, readable, writable),
        SlotKind::Listener => transports::server::listener::on_ready(py, &object),
        SlotKind::Waiter => transports::waiter::on_ready(py, &object),
        SlotKind::Handles => Watcher::on_ready(py, event_loop, &object, readable, writable),
        SlotKind::Parked => {
            // Not again before it is taken back: what waits would end every wait of the driver.
            drop(event_loop.runtime.unwatch(py, token));
            Ok(())
        }
        SlotKind::Signals => super::signals::on_ready(py, event_loop),
    }
}

pub(super) fn native(py: Python<'_>, object: &Obj, work: u32) -> RawResult<()> {
    match work_item::deliver(py, object) {
        Some(outcome) => outcome,
        None => transports::on_native(py, object, work),
    }
}
