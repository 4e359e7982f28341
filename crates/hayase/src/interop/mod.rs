//! What hayase uses of the standard library, imported once on first use.

pub(crate) mod errors;
pub(crate) mod imports;
pub(crate) mod log;
