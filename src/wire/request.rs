//! Requests: which of the service's methods, and the message for it.
//!
//! What must hold: a request means the same on the other side, whatever is asked. What makes no sense (no scope, no
//! identity, a key or a name that is too long) is refused in words before anybody acts on it.
//!
//! It knows nothing of replies, and not whether a message as a whole is too large: the transports ask
//! [`check_size`](super::check_size).

use std::sync::Arc;

use prost::Message;

use crate::message::{
    After, Ask, Get, GetMany, GetTerms, Hello, Incarnation, Insert, Refusal, RemovalId, Remove, Request, Scope,
};
use crate::tags::TagHash;

use super::news::{span_out, spans_in};
use super::parts::{duration, group_in, invalid, key_in, key_out, keys_in, micros, name_in};
use super::proto;
use super::proto::remove_request::Scope as WireScope;
use super::sender::sender_in;

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
        max_age_us: get.terms.max_age.map(micros),
        key: key_out(&get.key),
        removed: get.after.removed.iter().map(span_out).collect(),
        offered: get.after.offered,
    }
}

fn get_many_request(sender: Option<proto::Sender>, get: &GetMany) -> proto::GetManyRequest {
    proto::GetManyRequest {
        sender,
        group: get.terms.group.to_string(),
        schema: get.terms.schema,
        time_limit_us: micros(get.terms.time_limit),
        nested: get.terms.nested,
        max_age_us: get.terms.max_age.map(micros),
        keys: get.keys.iter().map(key_out).collect(),
    }
}

fn remove_request(sender: Option<proto::Sender>, remove: Remove) -> proto::RemoveRequest {
    let scope = match remove.scope {
        Scope::Keys(keys) => WireScope::Keys(proto::Keys { keys: keys.iter().map(key_out).collect() }),
        Scope::Tag(tag) => WireScope::Tag(key_out(&tag)),
        Scope::Group => WireScope::WholeGroup(proto::WholeGroup {}),
    };
    proto::RemoveRequest {
        sender,
        id: Some(remove.id.into()),
        group: remove.group.to_string(),
        scope: Some(scope),
        version: remove.version,
    }
}

fn insert_request(sender: Option<proto::Sender>, insert: Insert) -> proto::InsertRequest {
    proto::InsertRequest {
        sender,
        id: Some(insert.id.into()),
        group: insert.group.to_string(),
        schema: insert.schema,
        key: key_out(&insert.key),
        is_offer: insert.value.is_none(),
        value: insert.value.unwrap_or_default(),
        time_to_live_us: insert.time_to_live.map(micros),
        refresh_after_us: insert.refresh_after.map(micros),
        tags: insert.tags.into_iter().map(|tag| tag.0).collect(),
        version: insert.version,
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
        let group = group_in(&message.group)?;
        let mut terms = terms_in(group, message.schema, message.time_limit_us, message.nested);
        terms.max_age = message.max_age_us.map(duration);
        let after = After { removed: spans_in(&message.removed)?, offered: message.offered };
        let get = Get { terms, key: key_in(&message.key)?, after };
        Ok(Self { sender: sender_in(message.sender)?, ask: Ask::Get(get) })
    }
}

impl TryFrom<proto::GetManyRequest> for Request {
    type Error = Refusal;

    fn try_from(message: proto::GetManyRequest) -> Result<Self, Refusal> {
        let group = group_in(&message.group)?;
        let mut terms = terms_in(group, message.schema, message.time_limit_us, message.nested);
        terms.max_age = message.max_age_us.map(duration);
        let get = GetMany { terms, keys: keys_in(&message.keys)? };
        Ok(Self { sender: sender_in(message.sender)?, ask: Ask::GetMany(get) })
    }
}

/// What all kinds of get have in common.
pub(super) fn terms_in(group: Arc<str>, schema: u32, time_limit_us: u64, nested: bool) -> GetTerms {
    GetTerms { group, schema, time_limit: duration(time_limit_us), nested, max_age: None }
}

impl TryFrom<proto::RemoveRequest> for Request {
    type Error = Refusal;

    fn try_from(message: proto::RemoveRequest) -> Result<Self, Refusal> {
        let scope = match message.scope {
            Some(WireScope::Keys(keys)) => Scope::Keys(keys_in(&keys.keys)?),
            Some(WireScope::Tag(tag)) => Scope::Tag(key_in(&tag)?),
            Some(WireScope::WholeGroup(_)) => Scope::Group,
            None => {
                return Err(invalid("the removal says not what to remove, or in a way that this node does not know"));
            }
        };
        let (id, group) = (removal_id_in(message.id)?, group_in(&message.group)?);
        let remove = Remove { id, group, scope, version: message.version };
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
            value: (!message.is_offer).then_some(message.value),
            time_to_live: message.time_to_live_us.map(duration),
            refresh_after: message.refresh_after_us.map(duration),
            tags: message.tags.into_iter().map(TagHash).collect(),
            version: message.version,
        };
        Ok(Self { sender: sender_in(message.sender)?, ask: Ask::Insert(insert) })
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
    if id.number == u64::MAX {
        return Err(invalid("the removal's number is the last there is, which nothing can follow"));
    }
    Ok(RemovalId { origin: name_in(&id.origin)?, incarnation: Incarnation(id.incarnation), number: id.number })
}
