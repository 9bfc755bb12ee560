//! The one TCP stream of a connection, and what it tells.
//!
//! A gRPC channel would like to mend itself, by connecting anew whenever it has to; here it must not, because what the
//! node knows of a peer (its incarnation, what it has been told) it knows of a connection. So the channel gets a
//! connector that has one stream to give.
//!
//! That stream also tells what a channel keeps to itself: when the peer has begun to speak HTTP/2, and, by being
//! dropped, that the connection is over, even if nobody has asked anything on it.

use std::future::{Ready, ready};
use std::io;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::Uri;
use tower_service::Service;

/// What a stream tells of the connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Signs {
    /// The peer has sent something.
    greeted: CancellationToken,
    /// The stream is gone.
    pub(super) closed: CancellationToken,
}

impl Signs {
    /// The channel believes itself connected when it has sent its greeting. A listener whose process hangs gets that
    /// far: only the peer's own greeting says that somebody is there.
    pub(super) async fn wait_for_greeting(&self) -> io::Result<()> {
        tokio::select! {
            biased;
            () = self.greeted.cancelled() => Ok(()),
            () = self.closed.cancelled() => Err(closed()),
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection is closed")
}

/// A TCP stream that gives [`Signs`] of what happens to it.
type Stream<S> = InspectReader<S, Box<dyn FnMut(&[u8]) + Send>>;

/// A connector that hands out the stream it was made with, once.
pub(super) struct OneStream<S>(Option<Stream<S>>);

impl<S: AsyncRead> OneStream<S> {
    pub(super) fn new(tcp: S, signs: &Signs) -> Self {
        let (mut greeted, gone) = (Some(signs.greeted.clone()), signs.closed.clone().drop_guard());
        let inspect = move |read: &[u8]| {
            // It goes with the stream, whose part this is.
            let _ = &gone;
            // Once: the token has a lock, and there are many reads.
            if !read.is_empty()
                && let Some(greeted) = greeted.take()
            {
                greeted.cancel();
            }
        };
        Self(Some(InspectReader::new(tcp, Box::new(inspect))))
    }
}

impl<S> Service<Uri> for OneStream<S> {
    type Response = TokioIo<Stream<S>>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Stream<S>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(closed))
    }
}
