//! Errors that a caller can tell apart and act on.
//!
//! One failure can have many waiters, on several nodes: every error here is `Clone + Send + Sync`, and keeps its kind
//! across the wire.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::member::NodeName;

/// An error of the user's code, or any error: what loaders and codecs may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a get, an insert or a removal failed. Each variant says what became of the load.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The loader said that there is no such value. Remembered for the group's not-found life.
    #[error("there is no value for this key")]
    NotFound,

    /// The loader ran and failed, or panicked. Nothing was stored; everyone on the same flight gets this error, and the
    /// next get loads again.
    #[error(transparent)]
    Load(LoadError),

    /// The loader ran into the group's `load_timeout` and was dropped. Nothing was stored.
    #[error("the load did not end within its limit of {limit:?}")]
    LoadTimeout {
        /// The limit, counted from the loader's call.
        limit: Duration,
    },

    /// No answer within the caller's own limit. The load goes on and may still fill the cache.
    #[error("no answer within the caller's limit of {limit:?}")]
    Timeout {
        /// The limit, counted from the call.
        limit: Duration,
    },

    /// Too many loads at once: the queue is full, or the load waited in it for longer than the group allows. The loader
    /// was not called. Try again later, or raise the group's limits on loads.
    #[error("too many loads at once: the loader was not called")]
    Busy,

    /// The node is shut down, or was while this call waited.
    #[error("the node is shut down")]
    Closed,

    /// A loader asked, directly or through other loaders of this node, for a key that it is itself loading: it would
    /// have waited for itself. (A circle that leads over another node ends with [`LoadTimeout`](Self::LoadTimeout).)
    #[error("the loader asked for the key that it is itself loading")]
    Recursive,

    /// The key is longer than [`Key::MAX_LEN`](crate::Key::MAX_LEN). Nothing was asked of anybody.
    #[error("the key of {len} bytes is longer than the limit of {limit} bytes")]
    KeyTooLong {
        /// The key's length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// The encoded value is larger than the node's `max_value_bytes`. It was not stored.
    #[error(
        "the value of {len} bytes is larger than the limit of {limit} bytes; raise `max_value_bytes` on every node"
    )]
    ValueTooLarge {
        /// The encoded value's length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// The value could not be encoded. It was not stored.
    #[error("the value could not be encoded: {0}")]
    Codec(CodecError),

    /// There is no tokio runtime: the call was polled outside of one, and the node was made outside of one.
    #[error("peerage needs a tokio runtime: make the node, or call, from within one")]
    NoRuntime,
}

impl Error {
    /// Whether it says that the source could not be asked, or did not answer as it should: an old value may do better.
    pub(crate) fn is_of_the_source(&self) -> bool {
        // Not a value that is there and cannot be kept: that is for somebody to see.
        matches!(self, Self::Load(_) | Self::LoadTimeout { .. } | Self::Busy)
    }
}

/// What a loader failed with: a message, a code for programs, and on the node where it ran, the error itself.
///
/// Whatever error a loader returns becomes one by itself. A loader that wants its callers to tell failures apart, also
/// on other nodes, returns one with a code:
///
/// ```
/// use peerage::{Error, Group, Key, LoadError, Node};
///
/// # async fn read(_: &Key) -> Result<String, std::io::Error> { Err(std::io::ErrorKind::NotFound.into()) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// const DISK: u32 = 7;
///
/// let node = Node::local();
/// let files: Group<String> = node
///     .group("files")
///     .loader(|key: Key| async move { read(&key).await.map_err(|error| LoadError::wrap(error).with_code(DISK)) })
///     .build()?;
///
/// match files.get("motd").await {
///     Err(Error::Load(error)) if error.code() == DISK => println!("no luck with the disk: {}", error.message()),
///     other => println!("{other:?}"),
/// }
/// # assert!(matches!(files.get("motd").await, Err(Error::Load(error)) if error.code() == DISK));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct LoadError {
    code: u32,
    message: Arc<str>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl LoadError {
    /// The most bytes of a message that cross the wire; what is longer is cut.
    pub const MAX_MESSAGE_LEN: usize = 4096;

    /// A failure with this message and code 0.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: 0, message: Arc::from(message.into()), source: None }
    }

    /// The same with a code of the user's, which crosses the wire.
    #[must_use]
    pub fn with_code(mut self, code: u32) -> Self {
        self.code = code;
        self
    }

    /// Wraps any error. Its message is that of the error and of its causes; its code that of the first `LoadError`
    /// among them, or else 0. An error that is a `LoadError` itself stays as it is.
    #[must_use]
    pub fn wrap(error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<Self>() {
            Ok(own) => *own,
            Err(other) => {
                let inner = causes(&*other).find_map(|cause| cause.downcast_ref::<Self>());
                let code = inner.map_or(0, |inner| inner.code);
                Self { code, message: Arc::from(message_of(&*other)), source: Some(Arc::from(other)) }
            }
        }
    }

    /// The user's code; 0 if none was given.
    #[must_use]
    pub fn code(&self) -> u32 {
        self.code
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Debug for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadError").field("code", &self.code).field("message", &self.message).finish_non_exhaustive()
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the loader failed: {}", self.message)
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// An error and what it was caused by, outermost first.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The messages of an error and its causes in one line; a cause that its effect has quoted already is not said again.
fn message_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = String::new();
    for cause in causes(error).map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message.push_str(": ");
            message.push_str(&cause);
        }
    }
    message
}

/// Why a value could not be encoded, or bytes not decoded.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(Arc<str>);

impl CodecError {
    /// An error with the text of `reason`.
    #[must_use]
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(Arc::from(reason.to_string()))
    }
}

/// A setting that cannot be. Each says what to do about it; nothing was started or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An address is not `host:port`.
    #[error("{address:?} is not an address: write `host:port`, such as \"10.0.0.1:7400\" or \"[::1]:7400\"")]
    InvalidAddress {
        /// What was given.
        address: String,
    },

    /// An address is that of no host in particular.
    #[error(
        "peers cannot reach {address:?}: give the address by which they do, and `bind({address:?})` to listen there"
    )]
    UnspecifiedAddress {
        /// What was given.
        address: String,
    },

    /// A node's name is empty or too long.
    #[error("{name:?} is not a node's name: it needs 1 to {} bytes", NodeName::MAX_LEN)]
    InvalidName {
        /// What was given.
        name: String,
    },

    /// A weight is outside of 1 to [`Member::MAX_WEIGHT`](crate::Member::MAX_WEIGHT).
    #[error("the weight {weight} of node {name} is outside of 1 to {}", crate::member::Member::MAX_WEIGHT)]
    InvalidWeight {
        /// The node.
        name: NodeName,
        /// What was given.
        weight: u32,
    },

    /// The list of peers is empty. It usually means that discovery failed, so it has to be asked for by name.
    #[error("the list of peers is empty: if this node is to be alone, say so with `alone()` or `set_alone()`")]
    NoPeers,

    /// More nodes are listed than a cluster can have.
    #[error("{len} nodes are listed: a cluster has at most {limit}")]
    TooManyMembers {
        /// How many are listed.
        len: usize,
        /// The limit.
        limit: usize,
    },

    /// The list names the same node twice, and differently.
    #[error("node {name} is listed twice, with different addresses or weights: list it once")]
    ConflictingMember {
        /// The node.
        name: NodeName,
    },

    /// The list names two nodes at one address.
    #[error("nodes {first} and {second} are both listed at {address}: each node needs an address of its own")]
    SharedAddress {
        /// The address.
        address: String,
        /// One of the two.
        first: NodeName,
        /// The other.
        second: NodeName,
    },

    /// The list says something else about this node than the node was built with.
    #[error("the list has this node, {name}, at {listed}, but it was built as {own}: make them the same")]
    DifferentSelf {
        /// This node.
        name: NodeName,
        /// Address and weight as listed.
        listed: String,
        /// Address and weight as built.
        own: String,
    },

    /// An option is outside of what it can be.
    #[error("{option} cannot be {value}: {advice}")]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: String,
        /// What to give instead.
        advice: &'static str,
    },

    /// The node has a group of this name already.
    #[error("this node has a group named {name:?} already: clone that one's handle instead")]
    DuplicateGroup {
        /// The group's name.
        name: String,
    },

    /// The node is local: it has no port, and so no peers.
    #[error("a local node has no peers: start it with `Node::builder` and the address by which peers reach it")]
    Local,

    /// The node is shut down: it takes no groups and no peers.
    #[error("the node is shut down")]
    Closed,
}

/// Why a node did not start. Nothing is left running.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),

    /// The node could not listen.
    #[error("cannot listen on {address}: {source}{}", bind_hint(source))]
    Bind {
        /// Where it tried to listen.
        address: String,
        /// Why it could not.
        source: Arc<std::io::Error>,
    },

    /// There is no tokio runtime to start in.
    #[error("peerage needs a tokio runtime: start the node from within one")]
    NoRuntime,
}

/// What to do about an address that is not this machine's.
fn bind_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => {
            "; if this is how peers reach the node, and it listens elsewhere, say where with `bind`"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_cross_threads_and_are_shared_by_many_waiters() {
        fn check<T: Clone + Send + Sync + 'static + std::error::Error>() {}
        check::<Error>();
        check::<ConfigError>();
        check::<StartError>();
    }

    #[test]
    fn a_loader_can_give_its_failure_a_code() {
        let given: BoxError = LoadError::new("no such table").with_code(7).into();
        let error = LoadError::wrap(given);
        assert_eq!((error.code(), error.message()), (7, "no such table"));
    }

    #[test]
    fn who_cannot_listen_is_told_of_bind_only_where_that_helps() {
        let error = |kind: std::io::ErrorKind| {
            let (address, source) = (String::from("a:1"), Arc::new(kind.into()));
            StartError::Bind { address, source }.to_string()
        };
        assert!(error(std::io::ErrorKind::AddrNotAvailable).contains("`bind`"));
        assert!(!error(std::io::ErrorKind::AddrInUse).contains("`bind`"));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("query users")]
    struct Query(#[source] BoxError);

    #[test]
    fn a_failure_tells_its_causes_and_keeps_the_code_of_the_first_that_has_one() {
        let error = LoadError::wrap(Query(LoadError::new("disk").with_code(7).into()));
        assert_eq!((error.code(), error.message()), (7, "query users: the loader failed: disk"));
        let error = LoadError::wrap(Query(std::io::Error::other("disk").into()));
        assert_eq!((error.code(), error.message()), (0, "query users: disk"));
        let shown = Error::Load(error);
        assert_eq!(shown.to_string(), "the loader failed: query users: disk");
        let source = std::error::Error::source(&shown).unwrap();
        assert!(source.is::<Query>());
    }

    #[test]
    fn any_error_is_kept_as_the_source() {
        let io = std::io::Error::other("disk on fire");
        let error = LoadError::wrap(io);
        assert_eq!((error.code(), error.message()), (0, "disk on fire"));
        assert!(std::error::Error::source(&error).is_some());
    }
}
