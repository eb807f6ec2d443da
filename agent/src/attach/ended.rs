//! Finds guests that are gone for good: their attachments end with them. Pure.

use super::{Attachment, BootId, Seen, Selector, Spots};
use crate::guests::{Place, Running};

/// The guests as far as they are known.
pub(crate) struct Known<'a> {
    /// The containers that there are.
    pub(crate) running: &'a Running,
    /// The namespaces that were opened.
    pub(crate) spots: &'a Spots,
    /// This run of the kernel.
    pub(crate) boot: Option<&'a BootId>,
}

/// The reason why the guest of an attachment is gone for good; `None` if it may be there, or come again.
pub(crate) fn ended_for_good(attachment: &Attachment, known: &Known<'_>) -> Option<&'static str> {
    let Known { running, spots, boot: now } = *known;
    match &attachment.guest {
        Selector::Id(digits) => running.has_gone(digits).then_some("Docker does not know its container any more"),
        Selector::Process { pid, started, .. } => ended_process(&attachment.guest, now).or_else(|| {
            let place = Place::Process { pid: *pid, started: *started };
            matches!(spots.seen(&place), Seen::Gone).then_some("its process has ended")
        }),
        Selector::Word(_)
        | Selector::Name(_)
        | Selector::Label { .. }
        | Selector::Compose { .. }
        | Selector::File(_) => None,
    }
}

/// The reason why the process that a document names is none that runs, by the document alone.
pub(super) fn ended_process(guest: &Selector, now: Option<&BootId>) -> Option<&'static str> {
    let Selector::Process { started, .. } = guest else { return None };
    if started.is_none() {
        // An earlier version wrote it: the process may have ended long ago, and another one may have its number now.
        return Some("it does not tell when its process was started");
    }
    guest.is_of_other_run(now).then_some("its process has ended: the host was started again since")
}

#[cfg(test)]
mod tests {
    use super::{super::check::tests::document, *};
    use crate::guests::Word;

    #[test]
    fn containers_that_are_gone_and_processes_of_which_the_start_is_not_known_end_their_attachments() {
        let boot: BootId = "00000000-0000-4000-8000-000000000000".parse().unwrap();
        let (mut all, mut running_alone) = (Running::default(), Running::default());
        [Word::Begin, Word::Whole].into_iter().for_each(|word| all.hear(word));
        [Word::Begin, Word::WholeOfRunning].into_iter().for_each(|word| running_alone.hear(word));
        for (guest, running, ended) in [
            ("pid:7", &all, Some("it does not tell when its process was started")),
            // As it was written before it was read as a process.
            ("netns:/proc/7/ns/net", &all, Some("it does not tell when its process was started")),
            ("netns://proc/7/ns/net", &all, Some("it does not tell when its process was started")),
            ("pid:7@100", &all, None),
            (
                "pid:7@100@4ad8d9f2-54ab-4fe1-93cb-8f4ef4cb2c2b",
                &all,
                Some("its process has ended: the host was started again since"),
            ),
            ("pid:7@100@00000000-0000-4000-8000-000000000000", &all, None),
            ("id:aaaaaaaaaaaa", &all, Some("Docker does not know its container any more")),
            ("id:aaaaaaaaaaaa", &running_alone, None),
            ("name:web", &all, None),
            ("/run/netns/x", &all, None),
        ] {
            let attachment = document(&format!(r#"{{"guest":"{guest}"}}"#));
            let known = Known { running, spots: &Spots::default(), boot: Some(&boot) };
            assert_eq!(ended_for_good(&attachment, &known), ended, "{guest}");
        }
    }
}
