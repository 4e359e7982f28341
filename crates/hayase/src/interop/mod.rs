//! What hayase uses of the standard library, imported once on first use, and what it says in its words.

pub(crate) mod arguments;
pub(crate) mod asyncio_class;
pub(crate) mod errors;
pub(crate) mod imports;
pub(crate) mod log;
