//! Makes the interpreter's version visible as `cfg(Py_3_12)` and friends, for `raw/compat.rs` alone.
fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
