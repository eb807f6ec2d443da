//! Networks by name.

mod admission;
mod choice;
mod values;
