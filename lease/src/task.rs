//! A task that ends with its owner.

use std::future::Future;

/// A spawned task, cancelled when this is dropped.
#[derive(Debug)]
pub(crate) struct Task(tokio::task::JoinHandle<()>);

impl Task {
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
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
