//! The seam between nodes: [`Transport`] asks outwards, [`Handler`] answers inwards.
//!
//! Rooms above this one know no sockets, rooms that hold sockets know no groups. There are two transports: gRPC
//! (`grpc/`) and the in-process network (`memory/`, feature `test-util`). A transport security layer or a shared
//! secret belongs to the transports: what crosses this seam is trusted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::coherence::Presence;
use crate::key::Key;
use crate::message::{After, Answer, Ask, Get, GetTerms, Refusal, RefusalKind, Reply, Request, Sender};
use crate::wakes::Wakes;

/// Opens connections to other nodes.
pub(crate) trait Transport: Send + Sync + 'static {
    /// Connects to the node at `address`. Ends within the transport's connect limit, whatever the other side does.
    fn connect(&self, address: Arc<str>) -> BoxFuture<'static, Result<Opened, Unreachable>>;
}

/// A connection, and what drives it.
pub(crate) struct Opened {
    pub(crate) connection: Arc<dyn Connection>,
    /// To be run for as long as the connection is wanted: brings the answers. It ends when the connection has closed,
    /// or when nobody holds the connection any more and all that was asked on it has its answer. Dropping it closes the
    /// connection at once; what was asked is dropped, unanswered.
    pub(crate) driver: BoxFuture<'static, ()>,
}

/// One connection to one node. It does not mend itself: once closed it stays closed, and every call on it fails.
///
/// **Liveness is the connection's, not the request's.** An implementation notices silence by itself (pings, about two
/// seconds) and then closes; a call on a connection that lives waits for as long as its caller does.
pub(crate) trait Connection: Send + Sync + 'static {
    /// Sends a request and waits for its reply. Dropping the future gives the request up.
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Reply, CallError>>;

    /// Asks for keys of one group. Each is answered by itself, as soon as its answer is there: at the earliest before
    /// this returns, if the connection is closed or full.
    fn ask(&self, sender: &Arc<Sender>, terms: GetTerms, questions: &mut dyn Iterator<Item = Question>);

    /// Resolves when the connection is closed, for whatever reason.
    fn closed(&self) -> BoxFuture<'static, ()>;
}

/// A question for one key, and who waits for the answer.
pub(crate) struct Question {
    pub(crate) key: Key,
    pub(crate) after: After,
    pub(crate) asker: Box<dyn Asker>,
}

/// Who waits for the answer to a question. Dropped without one, it has to do without.
pub(crate) trait Asker: Send + Sync + 'static {
    /// For how long an answer is of use from now on; `None` if it is not, any more. Asked now and then, and what is of
    /// no use any more is given up, with [`CallError::GivenUp`].
    fn patience(&self) -> Option<Duration>;

    /// Here it is, to be taken out of where it lies: answers come many at a time, and are too large to be passed from
    /// hand to hand. Called by whoever brings them, so whatever takes long has to be done elsewhere, and whom they wake
    /// is woken when all have been brought.
    fn take(self: Box<Self>, answer: Result<&mut Answer, CallError>, wakes: &mut Wakes);
}

/// Answers what other nodes ask.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request. Never panics on what a peer sends; dropping the future gives the request up.
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>>;

    /// Somebody is there who asks: to be held for as long as the stream is that he asks on.
    fn meet(&self, _sender: &Sender) -> Option<Presence> {
        None
    }

    /// Answers many questions at once: what needs no wait, now. What becomes of each goes to `served`, with its place
    /// among those that are `wanted`. It may stop early, after at least one, when what is answered now is all that there
    /// is `room` for: the rest is asked for again. Says how many it has looked at, which are the first.
    fn serve(
        self: Arc<Self>,
        sender: Option<&Arc<Sender>>,
        terms: &GetTerms,
        wanted: &[Wanted],
        _room: Room,
        served: &mut dyn FnMut(usize, Served),
    ) -> usize {
        for (at, Wanted { key, time_limit, max_age, after }) in wanted.iter().enumerate() {
            let terms = GetTerms { time_limit: *time_limit, max_age: *max_age, ..terms.clone() };
            let ask = Ask::Get(Get { terms, key: Key::new(key), after: after.clone() });
            let (handler, request) = (Arc::clone(&self), Request { sender: sender.cloned(), ask });
            let answer = async move {
                match handler.handle(request).await? {
                    Reply::Get(answer) => Ok(answer),
                    _ => Err(Refusal::new(RefusalKind::Invalid, "the handler's reply is not of the request's kind")),
                }
            };
            served(at, Served::Later(answer.boxed()));
        }
        wanted.len()
    }
}

/// A key that a peer asks for. Its length has been checked.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) key: Bytes,
    pub(crate) time_limit: Duration,
    /// As in [`GetTerms`].
    pub(crate) max_age: Option<Duration>,
    pub(crate) after: After,
}

/// What there is room for of answers that are there at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// So many bytes of values; the last may be larger.
    pub(crate) bytes: usize,
    /// So many answers, where nothing else was asked for. Loads are begun together, as many as come, for a batch
    /// loader's sake.
    pub(crate) answers: usize,
}

impl Room {
    pub(crate) const UNLIMITED: Self = Self { bytes: usize::MAX, answers: usize::MAX };
}

/// What became of a question of a peer's.
pub(crate) enum Served {
    Now(Result<Answer, Refusal>),
    /// Something has to be waited for. Dropping the future gives the question up.
    Later(BoxFuture<'static, Result<Answer, Refusal>>),
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
    /// As much is under way to the node as may be: the request was not sent.
    #[error("too much is under way to the peer")]
    Busy,
    /// Nobody wanted the answer any more.
    #[error("given up")]
    GivenUp,
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
