//! One answer to a get: a value, "there is none", or a failure.
//!
//! What must hold: an error arrives as the error that it was, with its numbers and, up to a limit, its words. A failure
//! of a kind that this build does not know is a failed load, for that is what it comes to. A value is not copied.
//!
//! It does not know how many answers travel together.

use std::time::Duration;

use crate::error::{CodecError, Error, LoadError};
use crate::message::{Answer, Copy, Outcome, Refusal};
use crate::tags::TagHash;

use super::parts::{cut, duration, invalid, micros, narrow, wide};
use super::proto;
use super::proto::answer::Outcome as WireOutcome;

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
        Self {
            value: copy.value,
            age_us: micros(copy.age),
            left_us: copy.left.map(micros),
            loaded: copy.loaded,
            until_refresh_us: copy.until_refresh.map(micros),
            grace_us: micros(copy.grace),
            tags: copy.tags.into_iter().map(|tag| tag.0).collect(),
        }
    }
}

impl From<proto::Value> for Copy {
    fn from(value: proto::Value) -> Self {
        Self {
            value: value.value,
            age: duration(value.age_us),
            left: value.left_us.map(duration),
            loaded: value.loaded,
            until_refresh: value.until_refresh_us.map(duration),
            grace: duration(value.grace_us),
            tags: value.tags.into_iter().map(TagHash).collect(),
        }
    }
}

/// What an error's kind is on the wire, and what it has to say beside that.
pub(super) fn failure(error: &Error) -> proto::Failure {
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

/// The error that a failure tells of.
pub(super) fn error_in(failure: &proto::Failure) -> Error {
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
