//! Refusals: what a node says when it does not serve a request.
//!
//! What must hold: a refusal keeps its kind, for what is done about it depends on that. Bytes that are none, or of a
//! kind that this build does not know, are no refusal: the transport then goes by what else it has heard. The sentence
//! is short, because it travels in headers.
//!
//! It does not know in which status or header its bytes travel.

use prost::Message;

use crate::message::{Refusal, RefusalKind};

use super::parts::cut;
use super::proto;

/// The most bytes of a refusal's sentence that are sent: it travels in headers, which have to stay small.
pub(in crate::wire) const MAX_REFUSAL_LEN: usize = 1024;

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

/// The refusal that these bytes encode; `None` if there is none in them, or one of a kind that this build does not
/// know.
pub(crate) fn refusal_in(details: &[u8]) -> Option<Refusal> {
    refusal_of(&proto::Refusal::decode(details).ok()?)
}

/// The refusal that this message is; `None` if it is of a kind that this build does not know.
pub(super) fn refusal_of(message: &proto::Refusal) -> Option<Refusal> {
    use proto::RefusalKind as Kind;

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
