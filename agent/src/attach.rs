//! What is to be attached to containers, as documents that outlive them: which guests are meant (`selector`), what each gets (`document`), the
//! rules for it (`check`), the files in which it is kept (`folder`), and how far it is (`status`).
//!
//! The agent does not make attachments yet: nothing here is called but by tests (docs/adr/0022-guests-helper.md).
#![cfg_attr(not(test), expect(dead_code, reason = "the agent does not make attachments yet"))]

mod check;
mod document;
mod folder;
mod selector;
mod status;

pub(crate) use self::{check::Refused, document::Attachment, selector::Selector};
