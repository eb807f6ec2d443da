//! A task that is cancelled when its owner is dropped.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc};

use tracing::Instrument as _;

use crate::Entries;

/// A future that a task polls along with its work. It makes progress while the work waits, and stops if the work
/// blocks: so a watchdog sees whether the task still runs.
pub type Beside = Pin<Box<dyn Future<Output = Infallible> + Send>>;

/// The input of a new task that uses the store.
#[derive(Default)]
pub struct Start {
    /// The content of the lease directory that the caller has just listed. It saves a second call and, being shared, a
    /// second copy.
    pub listing: Option<Arc<Entries>>,
    /// The future to poll along with the work.
    pub beside: Option<Beside>,
}

/// A spawned task, cancelled on drop.
#[derive(Debug)]
pub(crate) struct Task(tokio::task::JoinHandle<()>);

impl Task {
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static, beside: Option<Beside>) -> Self {
        let beside = beside.unwrap_or_else(|| Box::pin(std::future::pending()));
        let both = async move {
            tokio::select! {
                () = work => {}
                never = beside => match never {},
            }
        };
        Self(tokio::spawn(both.in_current_span()))
    }

    /// Cancels the task and waits for its end.
    pub(crate) async fn stop(mut self) {
        self.0.abort();
        // Cancelled or panicked: it has ended in both cases.
        let _ended = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use tokio::{sync::mpsc, time::sleep};

    use super::*;

    /// Sends a message every second.
    fn saying(said: mpsc::Sender<()>) -> Beside {
        Box::pin(async move {
            loop {
                sleep(Duration::from_secs(1)).await;
                let _ = said.send(()).await;
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_beside_goes_on_while_the_work_waits_and_ends_with_it_or_the_owner() {
        let (said, mut heard) = mpsc::channel(1);
        let waiting = Task::spawn(pending(), Some(saying(said)));
        for _ in 0..3 {
            assert_eq!(heard.recv().await, Some(()));
        }
        drop(waiting);
        assert_eq!(heard.recv().await, None);
        let (said, mut heard) = mpsc::channel(1);
        let _ended = Task::spawn(async {}, Some(saying(said)));
        assert_eq!(heard.recv().await, None);
    }
}
