//! The seam between nodes: [`Transport`] asks outwards, [`Handler`] answers inwards.
//!
//! Rooms above this one know no sockets, rooms that hold sockets know no groups. There are two transports: gRPC
//! (`grpc/`) and the in-process network (`memory/`, feature `test-util`). A transport security layer or a shared
//! secret belongs to the transports: what crosses this seam is trusted.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::message::{Refusal, Reply, Request};

/// Opens connections to other nodes.
pub(crate) trait Transport: Send + Sync + 'static {
    /// Connects to the node at `address`. Ends within the transport's connect limit, whatever the other side does.
    fn connect(&self, address: Arc<str>) -> BoxFuture<'static, Result<Arc<dyn Connection>, Unreachable>>;
}

/// One connection to one node. It does not mend itself: once closed it stays closed, and every call on it fails.
///
/// **Liveness is the connection's, not the request's.** An implementation notices silence by itself (pings, about two
/// seconds) and then closes; a call on a connection that lives waits for as long as its caller does.
pub(crate) trait Connection: Send + Sync + 'static {
    /// Sends a request and waits for its reply. Dropping the future gives the request up.
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Reply, CallError>>;

    /// Resolves when the connection is closed, for whatever reason.
    fn closed(&self) -> BoxFuture<'static, ()>;
}

/// Answers what other nodes ask.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request. Never panics on what a peer sends; dropping the future gives the request up.
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>>;
}

/// Why a call brought no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The node could not be reached, or was lost on the way: whether it served the request is unknown.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The node said that it does not serve the request.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
}

/// Why a node cannot be reached, in words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreachable(pub(crate) Arc<str>);

impl Unreachable {
    pub(crate) fn new(why: impl std::fmt::Display) -> Self {
        Self(Arc::from(why.to_string()))
    }
}
