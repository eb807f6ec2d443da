//! Networks by name.

mod admission;
mod choice;
mod ranges;
mod store;
mod values;
