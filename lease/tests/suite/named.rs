//! Networks by name.

mod values;
