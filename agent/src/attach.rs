//! What is to be attached to containers, as documents that outlive them: which guests are meant (`selector`), what each gets (`document`), the
//! rules for it (`check`), the files in which it is kept (`folder`), and how far it is (`status`). Which containers run is known from the helper
//! (`watched`), the namespaces that are wanted are opened by it (`spots`), what an attachment has on its network is kept (`endpoint`), and it ends with
//! a guest that is gone for good (`ended`).
//!
//! The task of networks by name (`crate::named`) makes attachments with it: docs/adr/0023-attachments.md.

mod boot;
mod check;
mod document;
mod ended;
mod endpoint;
mod folder;
mod selector;
mod spots;
mod status;
mod watched;

pub(crate) use self::{
    boot::BootId,
    check::{MOST, Refused, interface, mac},
    document::{Attachment, AttachmentId, Link, Origin, Wish},
    ended::{Known, ended_for_good},
    endpoint::{Attached, Endpoint, free_slot, hold},
    folder::{Folder, Found},
    selector::Selector,
    spots::{Opened, Seen, Spots},
    status::{Arrival, Clashes, Placement, Status, second_interface},
    watched::{FindError, Watched},
};
#[cfg(test)]
pub(crate) use self::{check::tests::document, selector::tests::guest};
