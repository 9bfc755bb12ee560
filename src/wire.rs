//! How the words of `message.rs` look on the wire.
//!
//! The messages of `peerage.proto` and the conversions between them and our own words, both ways. What must hold:
//!
//! - every conversion is total: whatever bytes a peer sends, the worst that comes of them is a [`Refusal`] of kind `Invalid`
//!   with a sentence that says what is wrong;
//! - what a newer peer adds is ignored where that is safe (kinds of failure), and refused where it is not (scopes of removals);
//! - values are not copied.
//!
//! It knows no sockets and no gRPC: both transports convert with it, so that they agree on every limit. Whether a group, a
//! cluster or a version is the right one is the handler's matter.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::error::{CodecError, Error, LoadError};
use crate::key::Key;
use crate::member::NodeName;
use crate::message::{
    Answer, Ask, Copy, Get, GetMany, GetTerms, Hello, Incarnation, Insert, Outcome, Refusal, RefusalKind, RemovalId,
    Remove, Request, Scope, Sender, Versions,
};

/// The generated code: messages, client and server.
pub(crate) mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]

    tonic::include_proto!("peerage.v1");
}

use proto::answer::Outcome as WireOutcome;
use proto::remove_request::Scope as WireScope;

/// The most keys that a request may carry, and the most members a membership.
pub(crate) const MAX_COUNT: usize = 1 << 16;

/// Keys of this many bytes together fit in a request, however small the limit on values is.
pub(crate) const KEYS_BYTES: usize = 4 << 20;

/// How large one message of answers to a [`GetMany`] grows, unless a single answer is larger.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// The longest name of a group that is looked at.
const MAX_GROUP_LEN: usize = 1024;

/// The most bytes of a refusal's sentence that are sent: it travels in headers, which have to stay small.
const MAX_REFUSAL_LEN: usize = 1024;

/// What a message needs beside its value: a key, names, numbers.
const SLACK: usize = Key::MAX_LEN + (64 << 10);

/// Splits what has keys into parts that each fit in one request.
pub(crate) fn split_keys<T>(all: Vec<T>, key: impl Fn(&T) -> &Key) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in all {
        let len = key(&item).len();
        match parts.last_mut() {
            Some(part) if part.len() < MAX_COUNT && bytes + len <= KEYS_BYTES => {
                part.push(item);
                bytes += len;
            }
            _ => {
                parts.push(vec![item]);
                bytes = len;
            }
        }
    }
    parts
}

/// The size of the largest message of a node with this limit on values. The most keys that fit, [`KEYS_BYTES`] and up to
/// four bytes around each, need 4.25 MiB; 5 leave room.
pub(crate) fn message_limit(max_value_bytes: usize) -> usize {
    max_value_bytes.max(5 << 20).saturating_add(SLACK)
}

/// Refuses a message of `len` bytes if it is larger than `limit`.
pub(crate) fn check_size(what: &str, len: usize, limit: usize) -> Result<(), Refusal> {
    if len <= limit {
        return Ok(());
    }
    let message = format!(
        "the {what} of {len} bytes is larger than the limit of {limit} bytes; raise `max_value_bytes` on every node"
    );
    Err(Refusal::new(RefusalKind::TooLarge, message))
}

// Requests.

/// A request as it is sent: which of the service's methods, and the message for it.
#[derive(Debug)]
pub(crate) enum WireRequest {
    Hello(proto::Hello),
    Get(proto::GetRequest),
    GetMany(proto::GetManyRequest),
    Remove(proto::RemoveRequest),
    Insert(proto::InsertRequest),
}

impl WireRequest {
    pub(crate) fn encoded_len(&self) -> usize {
        match self {
            Self::Hello(message) => message.encoded_len(),
            Self::Get(message) => message.encoded_len(),
            Self::GetMany(message) => message.encoded_len(),
            Self::Remove(message) => message.encoded_len(),
            Self::Insert(message) => message.encoded_len(),
        }
    }
}

impl From<Request> for WireRequest {
    fn from(request: Request) -> Self {
        let sender = request.sender.as_deref().map(proto::Sender::from);
        match request.ask {
            // A hello says by itself who sends it.
            Ask::Hello(hello) => Self::Hello(hello.into()),
            Ask::Get(get) => Self::Get(get_request(sender, &get)),
            Ask::GetMany(get) => Self::GetMany(get_many_request(sender, &get)),
            Ask::Remove(remove) => Self::Remove(remove_request(sender, remove)),
            Ask::Insert(insert) => Self::Insert(insert_request(sender, insert)),
        }
    }
}

fn get_request(sender: Option<proto::Sender>, get: &Get) -> proto::GetRequest {
    proto::GetRequest {
        sender,
        group: get.terms.group.to_string(),
        schema: get.terms.schema,
        time_limit_us: micros(get.terms.time_limit),
        nested: get.terms.nested,
        key: key_out(&get.key),
    }
}

fn get_many_request(sender: Option<proto::Sender>, get: &GetMany) -> proto::GetManyRequest {
    proto::GetManyRequest {
        sender,
        group: get.terms.group.to_string(),
        schema: get.terms.schema,
        time_limit_us: micros(get.terms.time_limit),
        nested: get.terms.nested,
        keys: get.keys.iter().map(key_out).collect(),
    }
}

fn remove_request(sender: Option<proto::Sender>, remove: Remove) -> proto::RemoveRequest {
    let scope = match remove.scope {
        Scope::Keys(keys) => WireScope::Keys(proto::Keys { keys: keys.iter().map(key_out).collect() }),
        Scope::Group => WireScope::WholeGroup(proto::WholeGroup {}),
    };
    proto::RemoveRequest { sender, id: Some(remove.id.into()), group: remove.group.to_string(), scope: Some(scope) }
}

fn insert_request(sender: Option<proto::Sender>, insert: Insert) -> proto::InsertRequest {
    proto::InsertRequest {
        sender,
        id: Some(insert.id.into()),
        group: insert.group.to_string(),
        schema: insert.schema,
        key: key_out(&insert.key),
        value: insert.value,
        time_to_live_us: insert.time_to_live.map(micros),
    }
}

impl TryFrom<proto::Hello> for Request {
    type Error = Refusal;

    fn try_from(message: proto::Hello) -> Result<Self, Refusal> {
        let hello = Hello::try_from(message)?;
        Ok(Self { sender: Some(Arc::clone(&hello.sender)), ask: Ask::Hello(hello) })
    }
}

impl TryFrom<proto::GetRequest> for Request {
    type Error = Refusal;

    fn try_from(message: proto::GetRequest) -> Result<Self, Refusal> {
        let terms = GetTerms {
            group: group_in(&message.group)?,
            schema: message.schema,
            time_limit: duration(message.time_limit_us),
            nested: message.nested,
        };
        let get = Get { terms, key: key_in(&message.key)? };
        Ok(Self { sender: sender_in(message.sender)?, ask: Ask::Get(get) })
    }
}

impl TryFrom<proto::GetManyRequest> for Request {
    type Error = Refusal;

    fn try_from(message: proto::GetManyRequest) -> Result<Self, Refusal> {
        let terms = GetTerms {
            group: group_in(&message.group)?,
            schema: message.schema,
            time_limit: duration(message.time_limit_us),
            nested: message.nested,
        };
        let get = GetMany { terms, keys: keys_in(&message.keys)? };
        Ok(Self { sender: sender_in(message.sender)?, ask: Ask::GetMany(get) })
    }
}

impl TryFrom<proto::RemoveRequest> for Request {
    type Error = Refusal;

    fn try_from(message: proto::RemoveRequest) -> Result<Self, Refusal> {
        let scope = match message.scope {
            Some(WireScope::Keys(keys)) => Scope::Keys(keys_in(&keys.keys)?),
            Some(WireScope::WholeGroup(_)) => Scope::Group,
            None => {
                return Err(invalid("the removal says not what to remove, or in a way that this node does not know"));
            }
        };
        let remove = Remove { id: removal_id_in(message.id)?, group: group_in(&message.group)?, scope };
        Ok(Self { sender: sender_in(message.sender)?, ask: Ask::Remove(remove) })
    }
}

impl TryFrom<proto::InsertRequest> for Request {
    type Error = Refusal;

    fn try_from(message: proto::InsertRequest) -> Result<Self, Refusal> {
        let insert = Insert {
            id: removal_id_in(message.id)?,
            group: group_in(&message.group)?,
            schema: message.schema,
            key: key_in(&message.key)?,
            value: message.value,
            time_to_live: message.time_to_live_us.map(duration),
        };
        Ok(Self { sender: sender_in(message.sender)?, ask: Ask::Insert(insert) })
    }
}

// Who speaks.

impl From<&Sender> for proto::Sender {
    fn from(sender: &Sender) -> Self {
        Self {
            cluster: sender.cluster.to_string(),
            name: sender.name.to_string(),
            incarnation: sender.incarnation.0,
            min_version: sender.versions.min,
            max_version: sender.versions.max,
        }
    }
}

fn sender_in(sender: Option<proto::Sender>) -> Result<Option<Arc<Sender>>, Refusal> {
    let Some(sender) = sender else { return Ok(None) };
    if sender.cluster.len() > NodeName::MAX_LEN {
        return Err(too_long("name of the cluster", sender.cluster.len(), NodeName::MAX_LEN));
    }
    if sender.min_version > sender.max_version {
        return Err(invalid("the sender's lowest version is above its highest"));
    }
    Ok(Some(Arc::new(Sender {
        cluster: Arc::from(sender.cluster),
        name: name_in(&sender.name)?,
        incarnation: Incarnation(sender.incarnation),
        versions: Versions { min: sender.min_version, max: sender.max_version },
    })))
}

impl From<Hello> for proto::Hello {
    fn from(hello: Hello) -> Self {
        let members =
            hello.members.iter().map(|(name, weight)| proto::Member { name: name.to_string(), weight: *weight });
        Self {
            sender: Some(proto::Sender::from(&*hello.sender)),
            fingerprint: hello.fingerprint,
            members: members.collect(),
            draining: hello.draining,
        }
    }
}

impl TryFrom<proto::Hello> for Hello {
    type Error = Refusal;

    fn try_from(message: proto::Hello) -> Result<Self, Refusal> {
        let sender = sender_in(message.sender)?.ok_or_else(|| invalid("the hello says not who sends it"))?;
        check_count("members", message.members.len())?;
        let members = message.members.iter().map(|member| Ok((name_in(&member.name)?, member.weight)));
        Ok(Self {
            sender,
            fingerprint: message.fingerprint,
            members: members.collect::<Result<_, Refusal>>()?,
            draining: message.draining,
        })
    }
}

impl From<RemovalId> for proto::RemovalId {
    fn from(id: RemovalId) -> Self {
        Self { origin: id.origin.to_string(), incarnation: id.incarnation.0, number: id.number }
    }
}

fn removal_id_in(id: Option<proto::RemovalId>) -> Result<RemovalId, Refusal> {
    let id = id.ok_or_else(|| invalid("the removal has no identity"))?;
    if id.number == 0 {
        return Err(invalid("the removal has no number: they count from 1"));
    }
    Ok(RemovalId { origin: name_in(&id.origin)?, incarnation: Incarnation(id.incarnation), number: id.number })
}

// Answers.

impl From<Answer> for proto::Answer {
    fn from(answer: Answer) -> Self {
        let outcome = match answer.outcome {
            Outcome::Value(copy) => WireOutcome::Value(copy.into()),
            Outcome::NotFound | Outcome::Failed(Error::NotFound) => WireOutcome::NotFound(proto::NotFound {}),
            Outcome::Failed(error) => WireOutcome::Failure(failure(&error)),
        };
        Self { outcome: Some(outcome), held_us: micros(answer.held) }
    }
}

impl TryFrom<proto::Answer> for Answer {
    type Error = Refusal;

    fn try_from(message: proto::Answer) -> Result<Self, Refusal> {
        let outcome = match message.outcome {
            Some(WireOutcome::Value(value)) => Outcome::Value(value.into()),
            Some(WireOutcome::NotFound(_)) => Outcome::NotFound,
            Some(WireOutcome::Failure(failure)) => Outcome::Failed(error_in(&failure)),
            None => return Err(invalid("the answer has no outcome, or one that this node does not know")),
        };
        Ok(Self { outcome, held: duration(message.held_us) })
    }
}

impl From<Copy> for proto::Value {
    fn from(copy: Copy) -> Self {
        Self { value: copy.value, age_us: micros(copy.age), left_us: copy.left.map(micros), loaded: copy.loaded }
    }
}

impl From<proto::Value> for Copy {
    fn from(value: proto::Value) -> Self {
        Self {
            value: value.value,
            age: duration(value.age_us),
            left: value.left_us.map(duration),
            loaded: value.loaded,
        }
    }
}

/// What an error's kind is on the wire, and what it has to say beside that.
fn failure(error: &Error) -> proto::Failure {
    use proto::FailureKind as Kind;

    let kind = |kind: Kind| proto::Failure { kind: kind.into(), ..Default::default() };
    let timed = |of: Kind, limit: &Duration| proto::Failure { limit_us: micros(*limit), ..kind(of) };
    let sized = |of: Kind, len: &usize, limit: &usize| proto::Failure {
        len_bytes: wide(*len),
        limit_bytes: wide(*limit),
        ..kind(of)
    };
    let told = |of: Kind, message: &str| proto::Failure {
        message: cut(message, LoadError::MAX_MESSAGE_LEN).to_owned(),
        ..kind(of)
    };
    match error {
        // A not-found is an outcome of its own; as a failure it can only be told in words.
        Error::NotFound => told(Kind::Load, &error.to_string()),
        Error::Load(load) => proto::Failure { code: load.code(), ..told(Kind::Load, load.message()) },
        Error::LoadTimeout { limit } => timed(Kind::LoadTimeout, limit),
        Error::Timeout { limit } => timed(Kind::Timeout, limit),
        Error::Busy => kind(Kind::Busy),
        Error::Closed => kind(Kind::Closed),
        Error::Recursive => kind(Kind::Recursive),
        Error::KeyTooLong { len, limit } => sized(Kind::KeyTooLong, len, limit),
        Error::ValueTooLarge { len, limit } => sized(Kind::ValueTooLarge, len, limit),
        Error::Codec(codec) => told(Kind::Codec, &codec.to_string()),
        Error::NoRuntime => kind(Kind::NoRuntime),
    }
}

fn error_in(failure: &proto::Failure) -> Error {
    use proto::FailureKind as Kind;

    let message = cut(&failure.message, LoadError::MAX_MESSAGE_LEN);
    let (len, limit) = (narrow(failure.len_bytes), narrow(failure.limit_bytes));
    // `kind()` reads what it does not know as unspecified.
    match failure.kind() {
        Kind::Unspecified | Kind::Load => Error::Load(LoadError::new(message).with_code(failure.code)),
        Kind::LoadTimeout => Error::LoadTimeout { limit: duration(failure.limit_us) },
        Kind::Timeout => Error::Timeout { limit: duration(failure.limit_us) },
        Kind::Busy => Error::Busy,
        Kind::Closed => Error::Closed,
        Kind::Recursive => Error::Recursive,
        Kind::KeyTooLong => Error::KeyTooLong { len, limit },
        Kind::ValueTooLarge => Error::ValueTooLarge { len, limit },
        Kind::Codec => Error::Codec(CodecError::new(message)),
        Kind::NoRuntime => Error::NoRuntime,
    }
}

/// Cuts the answers to a [`GetMany`] into messages of about [`CHUNK_BYTES`], made as they are asked for.
pub(crate) fn chunks(answers: Vec<Answer>) -> impl Iterator<Item = proto::GetManyReply> + Send + 'static {
    let indexed = |(index, answer): (u32, Answer)| proto::IndexedAnswer { index, answer: Some(answer.into()) };
    let mut rest = (0..).zip(answers).map(indexed).peekable();
    std::iter::from_fn(move || {
        let mut answers = vec![rest.next()?];
        let mut len = answers[0].encoded_len();
        while let Some(answer) = rest.next_if(|next| len + next.encoded_len() <= CHUNK_BYTES) {
            len += answer.encoded_len();
            answers.push(answer);
        }
        Some(proto::GetManyReply { answers })
    })
}

/// Puts the chunks of a reply to a [`GetMany`] together, in the order of the keys.
#[derive(Debug)]
pub(crate) struct Gathering {
    answers: Vec<Option<Answer>>,
}

impl Gathering {
    /// Expects an answer for each of so many keys.
    pub(crate) fn of(keys: usize) -> Self {
        Self { answers: std::iter::repeat_with(|| None).take(keys).collect() }
    }

    pub(crate) fn add(&mut self, chunk: proto::GetManyReply) -> Result<(), Refusal> {
        for proto::IndexedAnswer { index, answer } in chunk.answers {
            let place = usize::try_from(index).ok().and_then(|index| self.answers.get_mut(index));
            let place =
                place.ok_or_else(|| invalid(format!("there is an answer for key {index}, which was not asked for")))?;
            let answer = answer.ok_or_else(|| invalid(format!("the answer for key {index} is empty")))?;
            if place.replace(answer.try_into()?).is_some() {
                return Err(invalid(format!("key {index} was answered twice")));
            }
        }
        Ok(())
    }

    /// All the answers, if none is missing.
    pub(crate) fn finish(self) -> Result<Vec<Answer>, Refusal> {
        let answers = self.answers.into_iter().enumerate();
        answers.map(|(index, answer)| answer.ok_or_else(|| invalid(format!("key {index} was not answered")))).collect()
    }
}

// Refusals.

impl From<&Refusal> for proto::Refusal {
    fn from(refusal: &Refusal) -> Self {
        use proto::RefusalKind as Kind;

        let kind = match refusal.kind {
            RefusalKind::Invalid => Kind::Invalid,
            RefusalKind::WrongCluster => Kind::WrongCluster,
            RefusalKind::Version => Kind::Version,
            RefusalKind::UnknownGroup => Kind::UnknownGroup,
            RefusalKind::Schema => Kind::Schema,
            RefusalKind::TooLarge => Kind::TooLarge,
            RefusalKind::Draining => Kind::Draining,
        };
        Self { kind: kind.into(), message: cut(&refusal.message, MAX_REFUSAL_LEN).to_owned() }
    }
}

/// The refusal that these bytes encode; `None` if there is none in them, or one of a kind that this build does not know.
pub(crate) fn refusal_in(details: &[u8]) -> Option<Refusal> {
    use proto::RefusalKind as Kind;

    let message = proto::Refusal::decode(details).ok()?;
    let kind = match message.kind() {
        Kind::Unspecified => return None,
        Kind::Invalid => RefusalKind::Invalid,
        Kind::WrongCluster => RefusalKind::WrongCluster,
        Kind::Version => RefusalKind::Version,
        Kind::UnknownGroup => RefusalKind::UnknownGroup,
        Kind::Schema => RefusalKind::Schema,
        Kind::TooLarge => RefusalKind::TooLarge,
        Kind::Draining => RefusalKind::Draining,
    };
    Some(Refusal::new(kind, cut(&message.message, MAX_REFUSAL_LEN)))
}

// The parts of messages.

fn key_out(key: &Key) -> Bytes {
    Bytes::copy_from_slice(key)
}

fn key_in(key: &Bytes) -> Result<Key, Refusal> {
    if key.len() > Key::MAX_LEN {
        return Err(too_long("key", key.len(), Key::MAX_LEN));
    }
    Ok(Key::new(key))
}

fn keys_in(keys: &[Bytes]) -> Result<Vec<Key>, Refusal> {
    check_count("keys", keys.len())?;
    keys.iter().map(key_in).collect()
}

fn name_in(name: &str) -> Result<NodeName, Refusal> {
    match name.len() {
        0 => Err(invalid("a node's name is missing")),
        1..=NodeName::MAX_LEN => Ok(NodeName::from(name)),
        len => Err(too_long("name of a node", len, NodeName::MAX_LEN)),
    }
}

fn group_in(group: &str) -> Result<Arc<str>, Refusal> {
    if group.len() > MAX_GROUP_LEN {
        return Err(too_long("name of the group", group.len(), MAX_GROUP_LEN));
    }
    Ok(Arc::from(group))
}

fn check_count(what: &str, count: usize) -> Result<(), Refusal> {
    if count > MAX_COUNT {
        return Err(invalid(format!("{count} {what} are more than the {MAX_COUNT} that one message may carry")));
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, message)
}

fn too_long(what: &str, len: usize, limit: usize) -> Refusal {
    invalid(format!("the {what} of {len} bytes is longer than the limit of {limit} bytes"))
}

/// The longest beginning of `text` that has at most `max` bytes and ends with a whole character.
fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A duration on the wire. What is beyond it (or for ever) is the largest number.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn duration(micros: u64) -> Duration {
    if micros == u64::MAX { Duration::MAX } else { Duration::from_micros(micros) }
}

fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn narrow(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = NodeName> {
        "\\PC{1,60}".prop_map(|name| NodeName::from(&name))
    }

    fn keys() -> impl Strategy<Value = Key> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Key::new(&bytes))
    }

    fn values() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    /// What the wire can tell apart: whole microseconds, and for ever.
    fn durations() -> impl Strategy<Value = Duration> {
        prop_oneof![any::<u64>().prop_map(duration), Just(Duration::ZERO), Just(Duration::MAX)]
    }

    fn senders() -> impl Strategy<Value = Arc<Sender>> {
        ("\\PC{0,60}", names(), any::<u64>(), any::<(u32, u32)>()).prop_map(|(cluster, name, incarnation, (a, b))| {
            let versions = Versions { min: a.min(b), max: a.max(b) };
            Arc::new(Sender { cluster: Arc::from(cluster), name, incarnation: Incarnation(incarnation), versions })
        })
    }

    fn hellos() -> impl Strategy<Value = Hello> {
        let members = prop::collection::vec((names(), any::<u32>()), 0..4);
        (senders(), any::<u64>(), members, any::<bool>()).prop_map(|(sender, fingerprint, members, draining)| Hello {
            sender,
            fingerprint,
            members,
            draining,
        })
    }

    fn terms() -> impl Strategy<Value = GetTerms> {
        ("\\PC{0,60}", any::<u32>(), durations(), any::<bool>()).prop_map(|(group, schema, time_limit, nested)| {
            GetTerms { group: Arc::from(group), schema, time_limit, nested }
        })
    }

    fn removal_ids() -> impl Strategy<Value = RemovalId> {
        (names(), any::<u64>(), 1u64..).prop_map(|(origin, incarnation, number)| RemovalId {
            origin,
            incarnation: Incarnation(incarnation),
            number,
        })
    }

    fn asks() -> impl Strategy<Value = Ask> {
        let many = || prop::collection::vec(keys(), 0..4);
        let scopes = prop_oneof![many().prop_map(Scope::Keys), Just(Scope::Group)];
        prop_oneof![
            (terms(), keys()).prop_map(|(terms, key)| Ask::Get(Get { terms, key })),
            (terms(), many()).prop_map(|(terms, keys)| Ask::GetMany(GetMany { terms, keys })),
            (removal_ids(), terms(), scopes).prop_map(|(id, GetTerms { group, .. }, scope)| Ask::Remove(Remove {
                id,
                group,
                scope
            })),
            (removal_ids(), terms(), keys(), values(), prop::option::of(durations())).prop_map(
                |(id, GetTerms { group, schema, .. }, key, value, time_to_live)| {
                    Ask::Insert(Insert { id, group, schema, key, value, time_to_live })
                }
            ),
        ]
    }

    /// A hello's sender is the request's; all other requests may come without.
    fn requests() -> impl Strategy<Value = Request> {
        prop_oneof![
            hellos().prop_map(|hello| Request { sender: Some(Arc::clone(&hello.sender)), ask: Ask::Hello(hello) }),
            (prop::option::of(senders()), asks()).prop_map(|(sender, ask)| Request { sender, ask }),
        ]
    }

    fn errors() -> impl Strategy<Value = Error> {
        prop_oneof![
            ("\\PC{0,60}", any::<u32>()).prop_map(|(words, code)| Error::Load(LoadError::new(words).with_code(code))),
            durations().prop_map(|limit| Error::LoadTimeout { limit }),
            durations().prop_map(|limit| Error::Timeout { limit }),
            any::<(usize, usize)>().prop_map(|(len, limit)| Error::ValueTooLarge { len, limit }),
            any::<(usize, usize)>().prop_map(|(len, limit)| Error::KeyTooLong { len, limit }),
            "\\PC{0,60}".prop_map(|words| Error::Codec(CodecError::new(words))),
            prop::sample::select(vec![Error::Busy, Error::Closed, Error::Recursive, Error::NoRuntime]),
        ]
    }

    fn answers() -> impl Strategy<Value = Answer> {
        let copies = (values(), durations(), prop::option::of(durations()), any::<bool>())
            .prop_map(|(value, age, left, loaded)| Copy { value, age, left, loaded });
        let outcomes =
            prop_oneof![copies.prop_map(Outcome::Value), Just(Outcome::NotFound), errors().prop_map(Outcome::Failed)];
        (outcomes, durations()).prop_map(|(outcome, held)| Answer { outcome, held })
    }

    /// Encodes a message and decodes it again, as bytes on a wire.
    fn recoded<M: Message + Default>(message: &M) -> M {
        M::decode(Bytes::from(message.encode_to_vec())).expect("our own bytes decode")
    }

    fn received(message: &WireRequest) -> Result<Request, Refusal> {
        match message {
            WireRequest::Hello(message) => recoded(message).try_into(),
            WireRequest::Get(message) => recoded(message).try_into(),
            WireRequest::GetMany(message) => recoded(message).try_into(),
            WireRequest::Remove(message) => recoded(message).try_into(),
            WireRequest::Insert(message) => recoded(message).try_into(),
        }
    }

    /// Reads bytes as a message of every kind, as far as they are one.
    fn read_as_everything(bytes: &Bytes) {
        fn read<M: Message + Default, T: TryFrom<M>>(bytes: &Bytes) -> Option<T> {
            M::decode(bytes.clone()).ok().and_then(|message| message.try_into().ok())
        }
        let _: Option<Request> = read::<proto::Hello, _>(bytes);
        let _: Option<Request> = read::<proto::GetRequest, _>(bytes);
        let _: Option<Request> = read::<proto::GetManyRequest, _>(bytes);
        let _: Option<Request> = read::<proto::RemoveRequest, _>(bytes);
        let _: Option<Request> = read::<proto::InsertRequest, _>(bytes);
        let _: Option<Answer> = read::<proto::Answer, _>(bytes);
        let _ = refusal_in(bytes);
        if let Ok(chunk) = proto::GetManyReply::decode(bytes.clone()) {
            let _ = Gathering::of(3).add(chunk);
        }
    }

    proptest! {
        #[test]
        fn a_request_means_the_same_on_the_other_side(request in requests()) {
            let got = received(&WireRequest::from(request.clone())).expect("our own requests are fine");
            prop_assert_eq!(format!("{got:?}"), format!("{request:?}"));
        }

        #[test]
        fn an_answer_means_the_same_on_the_other_side(answer in answers()) {
            let message = recoded(&proto::Answer::from(answer.clone()));
            let got = Answer::try_from(message).expect("our own answers are fine");
            prop_assert_eq!(format!("{got:?}"), format!("{answer:?}"));
        }

        #[test]
        fn arbitrary_bytes_are_no_reason_to_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            read_as_everything(&bytes.into());
        }

        #[test]
        fn nor_are_bytes_that_are_almost_right(
            request in requests(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = match WireRequest::from(request) {
                WireRequest::Hello(message) => message.encode_to_vec(),
                WireRequest::Get(message) => message.encode_to_vec(),
                WireRequest::GetMany(message) => message.encode_to_vec(),
                WireRequest::Remove(message) => message.encode_to_vec(),
                WireRequest::Insert(message) => message.encode_to_vec(),
            };
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            read_as_everything(&bytes.into());
        }

        #[test]
        fn a_cut_text_is_the_longest_that_fits(text in "\\PC{0,40}", max in 0usize..60) {
            let cut = cut(&text, max);
            prop_assert!(text.starts_with(cut) && cut.len() <= max);
            let next = text[cut.len()..].chars().next().map_or(0, char::len_utf8);
            prop_assert!(next == 0 || cut.len() + next > max, "{cut:?} could be longer");
        }
    }

    fn sender_message() -> proto::Sender {
        proto::Sender { cluster: "c".into(), name: "a".into(), incarnation: 1, min_version: 1, max_version: 1 }
    }

    fn get_message() -> proto::GetRequest {
        proto::GetRequest { sender: Some(sender_message()), ..Default::default() }
    }

    fn remove_message() -> proto::RemoveRequest {
        let id = proto::RemovalId { origin: "a".into(), incarnation: 1, number: 1 };
        proto::RemoveRequest {
            id: Some(id),
            scope: Some(WireScope::WholeGroup(proto::WholeGroup {})),
            ..Default::default()
        }
    }

    fn why_invalid(result: Result<Request, Refusal>) -> String {
        let refusal = result.expect_err("it should be refused");
        assert_eq!(refusal.kind, RefusalKind::Invalid);
        refusal.message
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        let sender = |sender| get_message_with(Some(sender));
        let long = "x".repeat(2000);
        for (request, part_of_the_words) in [
            (sender(proto::Sender { name: String::new(), ..sender_message() }), "name is missing"),
            (sender(proto::Sender { name: long.clone(), ..sender_message() }), "name of a node of 2000 bytes"),
            (sender(proto::Sender { cluster: long.clone(), ..sender_message() }), "name of the cluster of 2000 bytes"),
            (sender(proto::Sender { min_version: 2, ..sender_message() }), "lowest version is above its highest"),
            (proto::GetRequest { group: long, ..get_message() }.try_into(), "name of the group of 2000 bytes"),
            (proto::GetRequest { key: vec![0; 65_537].into(), ..get_message() }.try_into(), "key of 65537 bytes"),
            (many_keys(MAX_COUNT + 1).try_into(), "65537 keys are more than the 65536"),
            (proto::Hello::default().try_into(), "not who sends it"),
            (proto::RemoveRequest { id: None, ..remove_message() }.try_into(), "no identity"),
            (proto::RemoveRequest { id: Some(unnumbered()), ..remove_message() }.try_into(), "no number"),
            (proto::RemoveRequest { scope: None, ..remove_message() }.try_into(), "not what to remove"),
        ] {
            let words = why_invalid(request);
            assert!(words.contains(part_of_the_words), "{words:?} does not say {part_of_the_words:?}");
        }
    }

    fn get_message_with(sender: Option<proto::Sender>) -> Result<Request, Refusal> {
        proto::GetRequest { sender, ..get_message() }.try_into()
    }

    fn many_keys(count: usize) -> proto::GetManyRequest {
        proto::GetManyRequest { keys: vec![Bytes::new(); count], ..Default::default() }
    }

    fn unnumbered() -> proto::RemovalId {
        proto::RemovalId { origin: "a".into(), incarnation: 1, number: 0 }
    }

    #[test]
    fn the_most_keys_fit_however_small_the_limit_on_values() {
        let key = Bytes::from(vec![0; KEYS_BYTES / MAX_COUNT]);
        let message = proto::GetManyRequest { keys: vec![key; MAX_COUNT], ..Default::default() };
        assert!(message.encoded_len() <= message_limit(0));
    }

    #[test]
    fn a_failure_of_a_newer_kind_is_a_failed_load() {
        let failure = proto::Failure { kind: 999, message: "moon in the way".into(), code: 3, ..Default::default() };
        let Error::Load(load) = error_in(&failure) else { panic!("another kind of error") };
        assert_eq!((load.message(), load.code()), ("moon in the way", 3));
    }

    #[test]
    fn a_refusal_of_a_newer_kind_is_none_of_ours() {
        let newer = proto::Refusal { kind: 999, message: "?".into() };
        assert_eq!(refusal_in(&newer.encode_to_vec()), None);
        assert_eq!(refusal_in(b""), None);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let long = "ü".repeat(LoadError::MAX_MESSAGE_LEN);
        let told = failure(&Error::Load(LoadError::new(format!("x{long}"))));
        assert_eq!(told.message.len(), LoadError::MAX_MESSAGE_LEN - 1, "the last character did not fit");
        let refusal = Refusal::new(RefusalKind::Invalid, long);
        assert_eq!(proto::Refusal::from(&refusal).message.len(), MAX_REFUSAL_LEN);
    }

    fn answer_of(len: usize) -> Answer {
        let value = Bytes::from(vec![0; len]);
        let copy = Copy { value, age: Duration::ZERO, left: None, loaded: false };
        Answer { outcome: Outcome::Value(copy), held: Duration::ZERO }
    }

    #[test]
    fn no_chunk_is_larger_than_it_must_be() {
        let lens = [CHUNK_BYTES * 3, 1, CHUNK_BYTES / 2, CHUNK_BYTES / 2 - 100, CHUNK_BYTES / 2, 0];
        let chunks: Vec<_> = chunks(lens.map(answer_of).into()).map(|chunk| chunk.answers.len()).collect();
        assert_eq!(chunks, [1, 3, 2]);
    }

    #[test]
    fn answers_are_put_together_whatever_the_order() {
        let mut all: Vec<_> = chunks((0..5).map(answer_of).collect()).flat_map(|chunk| chunk.answers).collect();
        all.reverse();
        let mut gathering = Gathering::of(5);
        for answer in all {
            gathering.add(proto::GetManyReply { answers: vec![answer] }).expect("it was asked for");
        }
        let got = gathering.finish().expect("none is missing");
        assert_eq!(format!("{got:?}"), format!("{:?}", (0..5).map(answer_of).collect::<Vec<_>>()));
    }

    #[test]
    fn every_key_is_answered_exactly_once() {
        let answer = |index| proto::IndexedAnswer { index, answer: Some(answer_of(0).into()) };
        let gather = |answers| {
            let mut gathering = Gathering::of(2);
            gathering.add(proto::GetManyReply { answers })?;
            gathering.finish()
        };
        for (answers, words) in [
            (vec![answer(0)], "key 1 was not answered"),
            (vec![answer(0), answer(0)], "key 0 was answered twice"),
            (vec![answer(2)], "there is an answer for key 2, which was not asked for"),
            (vec![proto::IndexedAnswer { index: 1, answer: None }], "the answer for key 1 is empty"),
        ] {
            let refusal = gather(answers).expect_err(words);
            assert_eq!((refusal.kind, refusal.message.as_str()), (RefusalKind::Invalid, words));
        }
    }

    #[test]
    fn a_value_is_not_copied() {
        let value = Bytes::from(vec![1; 1000]);
        let copy = Copy { value: value.clone(), age: Duration::ZERO, left: None, loaded: false };
        let message = proto::Value::from(copy);
        assert_eq!(message.value.as_ptr(), value.as_ptr());
        assert_eq!(Copy::from(message).value.as_ptr(), value.as_ptr());
    }
}
