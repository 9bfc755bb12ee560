//! What an entry holds: a value, or that there is none, and tags.
//!
//! Most entries are a value without tags. They have nothing else in their block, not even the room for it: what there
//! is besides lies aside.

use std::sync::Arc;

use crate::tags::Tagged;

#[derive(Debug)]
pub(super) enum Held<V> {
    Value(V),
    /// Tags, or neither tags nor a value.
    Aside(Option<Box<Aside<V>>>),
}

/// What has tags.
#[derive(Debug)]
pub(super) struct Aside<V> {
    value: Option<V>,
    tagged: Arc<Tagged>,
}

// A value that has a spare bit pattern and room beside it costs not a byte more.
const _: () = assert!(size_of::<Held<bytes::Bytes>>() == size_of::<bytes::Bytes>());

impl<V> Held<V> {
    pub(super) fn new(value: Option<V>, tagged: Option<Arc<Tagged>>) -> Self {
        match (value, tagged) {
            (Some(value), None) => Self::Value(value),
            (value, tagged) => Self::Aside(tagged.map(|tagged| Box::new(Aside { value, tagged }))),
        }
    }

    /// What tags take, in bytes.
    pub(super) fn cost_of(tagged: Option<&Arc<Tagged>>) -> usize {
        tagged.map_or(0, |tagged| tagged.cost() + size_of::<Aside<V>>())
    }

    #[inline]
    pub(super) fn value(&self) -> Option<&V> {
        match self {
            Self::Value(value) => Some(value),
            Self::Aside(aside) => aside.as_ref()?.value.as_ref(),
        }
    }

    #[inline]
    pub(super) fn tagged(&self) -> Option<&Arc<Tagged>> {
        match self {
            Self::Value(_) => None,
            Self::Aside(aside) => aside.as_ref().map(|aside| &aside.tagged),
        }
    }

    pub(super) fn into_value(self) -> Option<V> {
        match self {
            Self::Value(value) => Some(value),
            Self::Aside(aside) => aside.and_then(|aside| aside.value),
        }
    }
}
