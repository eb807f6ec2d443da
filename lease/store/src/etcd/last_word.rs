//! Keeps the TLS alert with which a peer closes a connection.
//!
//! With TLS 1.3, a server refuses a client's certificate after the client considers the connection open (RFC 8446
//! §4.4.2.4, §6.2). Two things may hide the alert with the reason: a write that fails first, and hyper, which drops the
//! error of a connection that has no call in flight. So the alert is kept here.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls;

/// The TLS error that closed a connection; empty while it is open.
pub(super) type Reason = Arc<OnceLock<rustls::Error>>;

/// A TLS stream that keeps the error that closed it.
pub(super) struct LastWord<S> {
    stream: S,
    reason: Reason,
    /// The error of a failed write, kept while the peer's last bytes are read.
    broken: Option<io::Error>,
}

/// More bytes than an alert has.
const ALERT: usize = 64;

impl<S: AsyncRead + AsyncWrite + Unpin> LastWord<S> {
    pub(super) const fn new(stream: S, reason: Reason) -> Self {
        Self { stream, reason, broken: None }
    }

    /// Writes and, if that fails, reads all that the peer has sent before.
    fn attempt<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let error = match self.broken.take() {
            Some(error) => error,
            None => match write(Pin::new(&mut self.stream), context) {
                Poll::Ready(Err(error)) => error,
                done @ (Poll::Ready(Ok(_)) | Poll::Pending) => return done,
            },
        };
        let mut buffer = [0; ALERT];
        loop {
            let mut into = ReadBuf::new(&mut buffer);
            match Pin::new(&mut *self).poll_read(context, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {}
                // The kernel reports the closed connection at once, but tokio may not have seen that it is readable.
                Poll::Pending if is_closed(&error) => {
                    self.broken = Some(error);
                    return Poll::Pending;
                }
                Poll::Ready(_) | Poll::Pending => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<S: AsyncRead + Unpin> AsyncRead for LastWord<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if let Poll::Ready(Err(error)) = &read
            && let Some(reason) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            // Only the first error counts.
            let _kept = self.reason.set(reason.clone());
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LastWord<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.attempt(context, |stream, context| stream.poll_write(context, from))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attempt(context, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.attempt(context, |stream, context| stream.poll_write_vectored(context, from))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A connection closed by the peer, with or without an alert. tokio sees it only at the second poll.
    struct Closed {
        alert: bool,
        heard: bool,
    }

    impl AsyncRead for Closed {
        fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if !std::mem::replace(&mut self.heard, true) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !self.alert {
                return Poll::Ready(Ok(()));
            }
            let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, alert)))
        }
    }

    impl AsyncWrite for Closed {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_reason_that_a_peer_has_sent_is_kept_though_a_write_was_the_first_to_break() {
        let closed = |alert| LastWord::new(Closed { alert, heard: false }, Reason::default());
        let refused = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let mut written = closed(true);
        assert_eq!(written.write(b"a").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(written.reason.get(), Some(&refused));
        let mut flushed = closed(true);
        assert_eq!(flushed.flush().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(flushed.reason.get(), Some(&refused));
        let mut read = closed(true);
        assert_eq!(read.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read.reason.get(), Some(&refused));
        let mut gone = closed(false);
        assert_eq!(gone.write(b"a").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(gone.reason.get(), None);
    }
}
