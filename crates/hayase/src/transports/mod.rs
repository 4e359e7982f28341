//! Stand-ins until the transports land.
use crate::raw::{RawResult, obj::Obj};
use pyo3::prelude::*;
pub(crate) fn on_native(_py: Python<'_>, _object: &Obj, _work: u32) -> RawResult<()> {
    Ok(())
}
pub(crate) mod stream {
    use super::*;
    pub(crate) fn flush_corked(_py: Python<'_>, _r: &crate::runtime::Runtime) -> RawResult<()> {
        Ok(())
    }
    pub(crate) fn flush_turn(_py: Python<'_>, _r: &crate::runtime::Runtime) -> RawResult<()> {
        Ok(())
    }
    pub(crate) fn on_ready(_py: Python<'_>, _o: &Obj, _r: bool, _w: bool) -> RawResult<()> {
        Ok(())
    }
}
pub(crate) mod server {
    use super::*;
    pub(crate) fn on_ready(_py: Python<'_>, _o: &Obj, _r: bool) -> RawResult<()> {
        Ok(())
    }
}
pub(crate) mod waiter {
    use super::*;
    pub(crate) fn on_ready(_py: Python<'_>, _o: &Obj, _r: bool, _w: bool) -> RawResult<()> {
        Ok(())
    }
}
