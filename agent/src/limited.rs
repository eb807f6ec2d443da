//! Work of a command that may never end, as where the kernel does not answer.

use std::{sync::mpsc, thread, time::Duration};

/// The outcome of something that may never end; `None` if it has not ended after this time. Then it goes on beside until the process ends.
pub(crate) fn within<T: Send + 'static>(time: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, outcome) = mpsc::channel();
    // Nobody may wait any more.
    thread::spawn(move || drop(done.send(work())));
    outcome.recv_timeout(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_waited_for_no_longer_than_is_said() {
        let (_open, closed_later) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), move || closed_later.recv().is_ok()), None);
        assert_eq!(within(Duration::from_secs(30), || 7), Some(7));
    }
}
