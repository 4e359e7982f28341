//! hayase._core: Python's asyncio in Rust. This file is the module tree that Python sees.

mod event_loop;
mod interop;
#[allow(unsafe_code)]
mod raw;
mod runtime;
mod streams;
mod sync;
mod tasks;
mod transports;
mod waiting;

use std::collections::HashMap;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

#[pymodule]
mod _core {
    use super::*;

    /// What the compiler was told; `hayase.build_info()` adds what Python knows.
    #[pyfunction]
    fn build_info(py: Python<'_>) -> HashMap<&'static str, String> {
        let profile = if cfg!(debug_assertions) { "unoptimised" } else { "optimised" };
        HashMap::from([("profile", profile.to_owned()), ("tls_engine", transports::tls::engine::describe(py))])
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        if !raw::compat::is_main_interpreter(py) {
            // Types and caches are the process's: objects of one interpreter would reach the other.
            let text = "hayase works in the main interpreter only: it does not support sub-interpreters";
            return Err(pyo3::exceptions::PyImportError::new_err(text));
        }
        // Who forgets the module and imports it again gets a second one, with the same types: what was made before still works.
        static FIRST: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
        if let Some(first) = FIRST.get(py) {
            return module.dict().update(first.bind(py).dict().as_mapping());
        }
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        tasks::handle::init(py, module)?;
        tasks::init(py, module)?;
        runtime::coroutine::init(module)?;
        runtime::operation::init(module)?;
        raw::function::init(py, module)?;
        raw::method::init(py, module)?;
        sync::init(py, module)?;
        waiting::init(py, module)?;
        transports::init(module)?;
        streams::init(module)?;
        event_loop::init(py, module)?;
        FIRST.get_or_init(py, || module.clone().unbind());
        Ok(())
    }
}
