//! What messages are made of: keys, names, durations, lengths.
//!
//! What must hold: each part is read within its limit, refused in words beyond it, and nothing panics or wraps around.
//! `_out` makes the wire's form, `_in` reads it.
//!
//! It does not know which message a part is of.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::key::Key;
use crate::member::NodeName;
use crate::message::{Refusal, RefusalKind};

use super::MAX_COUNT;

/// The longest name of a group that is looked at.
const MAX_GROUP_LEN: usize = 1024;

pub(super) fn key_out(key: &Key) -> Bytes {
    Bytes::copy_from_slice(key)
}

pub(super) fn key_in(key: &Bytes) -> Result<Key, Refusal> {
    if key.len() > Key::MAX_LEN {
        return Err(too_long("key", key.len(), Key::MAX_LEN));
    }
    Ok(Key::new(key))
}

pub(super) fn keys_in(keys: &[Bytes]) -> Result<Vec<Key>, Refusal> {
    check_count("keys", keys.len())?;
    keys.iter().map(key_in).collect()
}

pub(super) fn name_in(name: &str) -> Result<NodeName, Refusal> {
    match name.len() {
        0 => Err(invalid("a node's name is missing")),
        1..=NodeName::MAX_LEN => Ok(NodeName::from(name)),
        len => Err(too_long("name of a node", len, NodeName::MAX_LEN)),
    }
}

pub(super) fn group_in(group: &str) -> Result<Arc<str>, Refusal> {
    if group.len() > MAX_GROUP_LEN {
        return Err(too_long("name of the group", group.len(), MAX_GROUP_LEN));
    }
    Ok(Arc::from(group))
}

pub(super) fn check_count(what: &str, count: usize) -> Result<(), Refusal> {
    if count > MAX_COUNT {
        return Err(invalid(format!("{count} {what} are more than the {MAX_COUNT} that one message may carry")));
    }
    Ok(())
}

/// A refusal of what makes no sense.
pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, message)
}

pub(super) fn too_long(what: &str, len: usize, limit: usize) -> Refusal {
    invalid(format!("the {what} of {len} bytes is longer than the limit of {limit} bytes"))
}

/// The longest beginning of `text` that has at most `max` bytes and ends with a whole character.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A duration on the wire. What is beyond it (or for ever) is the largest number.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The duration that [`micros`] made a number of.
pub(super) fn duration(micros: u64) -> Duration {
    if micros == u64::MAX { Duration::MAX } else { Duration::from_micros(micros) }
}

pub(super) fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

pub(super) fn narrow(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
