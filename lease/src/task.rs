//! A task that ends with its owner.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc};

use wire_store::Listing;

/// What a task does beside its work: it is polled in turn with that, so it goes on while the work waits, and stands still where
/// the work blocks. This is how a watchdog hears of a task.
pub type Beside = Pin<Box<dyn Future<Output = Infallible> + Send>>;

/// What a task that talks to the store begins with.
#[derive(Default)]
pub struct Start {
    /// A listing of the lease directory that the caller has just made, which saves making it again and, shared, keeping it twice.
    pub listing: Option<Arc<Listing>>,
    /// What it does beside its work.
    pub beside: Option<Beside>,
}

/// A spawned task, cancelled when this is dropped.
#[derive(Debug)]
pub(crate) struct Task(tokio::task::JoinHandle<()>);

impl Task {
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static, beside: Option<Beside>) -> Self {
        let beside = beside.unwrap_or_else(|| Box::pin(std::future::pending()));
        Self(tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                never = beside => match never {},
            }
        }))
    }

    /// Cancels it and waits until it is gone.
    pub(crate) async fn stop(mut self) {
        self.0.abort();
        // Cancelled or panicked: gone either way.
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

    /// Says something every second.
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
