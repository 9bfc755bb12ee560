//! The end of a stream that nothing is lost with.
//!
//! A socket that is closed while there is something in it that nobody has read is reset, and what was written to it and
//! has not left yet is thrown away. A node that stops has written its last answers, large ones maybe, while the peer
//! still sends credit for them, and pings. So the end is told first, and then whatever comes is read, and forgotten,
//! until the peer has closed its side.
//!
//! A peer that says nothing is waited for as long as any silent peer, one that goes on and on for [`MOST`] times that.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::clock;

/// For so many times what silence may last a peer may go on.
const MOST: u32 = 15;

/// A TCP stream that lingers when it is shut down.
pub(super) struct Lingering {
    tcp: TcpStream,
    silence: Duration,
    end: End,
}

/// How far the end of the stream has come.
enum End {
    NotYet,
    Told(Wait),
    Over,
}

/// The end was told; what remains is the peer's.
struct Wait {
    timer: BoxFuture<'static, ()>,
    rounds: u32,
    /// Whether something was read since the timer was set.
    is_heard: bool,
}

impl Lingering {
    pub(super) fn new(tcp: TcpStream, silence: Duration) -> Self {
        Self { tcp, silence, end: End::NotYet }
    }
}

impl Wait {
    fn new(silence: Duration) -> Self {
        Self { timer: clock::sleep(silence).boxed(), rounds: 0, is_heard: false }
    }

    fn poll_over(&mut self, tcp: &mut TcpStream, silence: Duration, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // Looked at first: whoever sends without a break would leave the timer no turn.
            let is_over = self.timer.poll_unpin(cx).is_ready();
            let mut scratch = [0; 4096];
            loop {
                let mut buf = ReadBuf::new(&mut scratch);
                match Pin::new(&mut *tcp).poll_read(cx, &mut buf) {
                    Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.is_heard = true,
                    // The peer has closed its side, or is gone.
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            if !is_over {
                return Poll::Pending;
            }
            let rounds = self.rounds + 1;
            if !self.is_heard || rounds == MOST {
                return Poll::Ready(());
            }
            *self = Self { rounds, ..Self::new(silence) };
        }
    }
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, silence, end } = &mut *self;
        if matches!(end, End::NotYet) {
            ready!(Pin::new(&mut *tcp).poll_shutdown(cx))?;
            *end = End::Told(Wait::new(*silence));
        }
        if let End::Told(wait) = end {
            ready!(wait.poll_over(tcp, *silence, cx));
            *end = End::Over;
        }
        Poll::Ready(Ok(()))
    }
}

impl Connected for Lingering {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.tcp.connect_info()
    }
}
