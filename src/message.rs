//! What nodes say to each other, as plain words. How it looks on the wire is `wire/`'s business.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Error;
use crate::key::Key;
use crate::member::NodeName;
pub(crate) use crate::removal::{Incarnation, RemovalId, Scope};
use crate::removals::{Lacking, Origin, Report, Span};
use crate::tags::TagHash;

/// A range of versions of the wire protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) min: u32,
    pub(crate) max: u32,
}

impl Versions {
    /// What this build speaks.
    pub(crate) const SPOKEN: Self = Self { min: 1, max: 1 };

    /// Whether there is a version that both speak.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// Who says it: carried by every request, and checked before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) cluster: Arc<str>,
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) versions: Versions,
}

/// A request. One from a client that is not a node has no sender.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) sender: Option<Arc<Sender>>,
    pub(crate) ask: Ask,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Hello(Hello),
    Get(Get),
    GetMany(GetMany),
    Remove(Remove),
    Insert(Insert),
}

/// The first message on a connection, sent again when the membership changes and now and then; answered by the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Who says hello (in a reply, the only place that says it).
    pub(crate) sender: Arc<Sender>,
    /// The fingerprint of the membership that the node goes by.
    pub(crate) fingerprint: u64,
    /// That membership: names and weights, in the order of the names.
    pub(crate) members: Vec<(NodeName, u32)>,
    /// Whether the node is shutting down: it answers what it has, and takes no new requests.
    pub(crate) draining: bool,
    /// What it tells of removals.
    pub(crate) news: News,
}

/// What a hello tells of removals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// What the node says of itself, first, and what it passes on of others.
    pub(crate) reports: Vec<Report>,
    /// What the receiver lacks.
    pub(crate) lacking: Lacking,
}

/// What all requests for keys say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GetTerms {
    pub(crate) group: Arc<str>,
    pub(crate) schema: u32,
    /// How long the asker waits.
    pub(crate) time_limit: Duration,
    /// Whether a loader asks: its load then takes no second permit.
    pub(crate) nested: bool,
    /// How old the value may be when the request comes; `None`: whatever its limits allow.
    pub(crate) max_age: Option<Duration>,
}

/// Asks for one key, of the node that serves it as its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Get {
    pub(crate) terms: GetTerms,
    pub(crate) key: Key,
    pub(crate) after: After,
}

/// What a question for one key says beyond that: nearly always nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct After {
    /// Removals that are to be applied to the key first.
    pub(crate) removed: Vec<Span>,
    /// The number of the insert whose value is wanted, and nothing else; 0 if it is a question like any other.
    pub(crate) offered: u64,
}

/// Asks for many keys; the answers come in the order of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GetMany {
    pub(crate) terms: GetTerms,
    pub(crate) keys: Vec<Key>,
}

/// Takes keys, what bears a tag, or the whole group, out of the receiver's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remove {
    pub(crate) id: RemovalId,
    pub(crate) group: Arc<str>,
    pub(crate) scope: Scope,
    /// The version of the receiver's links that the sender knows: of another, the receiver sends a report.
    pub(crate) version: u64,
}

/// Puts a value in its owner's cache, in the place of what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Insert {
    pub(crate) id: RemovalId,
    pub(crate) group: Arc<str>,
    pub(crate) schema: u32,
    pub(crate) key: Key,
    /// `None`: it is an offer of the sender's, and is asked for.
    pub(crate) value: Option<Bytes>,
    /// How long the value lives; `None`: as long as the group's own values.
    pub(crate) time_to_live: Option<Duration>,
    /// After how long it is refreshed; `None`: as the group's own values.
    pub(crate) refresh_after: Option<Duration>,
    /// What it bears, unless it is an offer, which brings them.
    pub(crate) tags: Vec<TagHash>,
    /// As in [`Remove`].
    pub(crate) version: u64,
}

/// The reply to an [`Ask`] of the same kind.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Hello(Hello),
    Get(Answer),
    GetMany(Vec<Answer>),
    Remove(Option<Ack>),
    Insert {
        /// Whether the value was stored; if not, the insert acted as a removal.
        stored: bool,
        ack: Option<Ack>,
    },
}

/// A removal is applied: by whom, and the version of that node's links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) by: Origin,
    pub(crate) version: u64,
    /// What that node says of itself, if the remover knows another version.
    pub(crate) report: Option<Report>,
}

/// What became of one key.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    /// How long the answering node held the request: what is left of the round trip was the way.
    pub(crate) held: Duration,
}

impl Answer {
    /// Takes it out of where it lies.
    pub(crate) fn take(&mut self) -> Self {
        Self { outcome: mem::replace(&mut self.outcome, Outcome::NotFound), held: self.held }
    }

    /// How many bytes its value has, if it is one.
    pub(crate) fn value_len(&self) -> usize {
        match &self.outcome {
            Outcome::Value(copy) => copy.value.len(),
            _ => 0,
        }
    }
}

/// An answer goes to the caller with its kind; nobody runs the loader again elsewhere.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Value(Copy),
    NotFound,
    Failed(Error),
}

/// A value on its way, with its age and what is left of its life as durations, at the time of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) value: Bytes,
    pub(crate) age: Duration,
    /// Up to its hard limit; `None`: the value lives until it is evicted or removed.
    pub(crate) left: Option<Duration>,
    /// Up to its soft limit; `None`: there is none before the hard one. Zero: its successor is being loaded.
    pub(crate) until_refresh: Option<Duration>,
    /// What is left of its grace, from the hard limit or, beyond that, from now.
    pub(crate) grace: Duration,
    /// Whether the answer waited for a load, rather than came from the cache.
    pub(crate) loaded: bool,
    /// What it bears: it is not to be kept once one of them is removed.
    pub(crate) tags: Vec<TagHash>,
}

/// Why a node did not serve a request at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) kind: RefusalKind,
    /// A sentence for a person.
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The kinds of refusal. What follows from each is decided in `route.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// The request does not make sense (a key beyond the limit, say).
    Invalid,
    /// The node belongs to another cluster.
    WrongCluster,
    /// There is no version of the protocol that both speak.
    Version,
    /// The node has no group of that name (yet).
    UnknownGroup,
    /// The node's group has another schema.
    Schema,
    /// A message was larger than one of the two ends takes.
    TooLarge,
    /// The node is shutting down.
    Draining,
}
