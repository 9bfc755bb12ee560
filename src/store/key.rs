//! A key as a store keeps it: in 24 bytes if it is short, and without its hash.
//!
//! A shared key costs a block with two counts besides its handle, and its hash eight bytes more. A million entries of
//! 16 byte keys are 24 MB less without: so short keys lie in the entry itself, and the hash is worked out again where a
//! table grows or an entry moves. Whoever searches brings the hash along.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

use crate::key::ShortKey;
use crate::scatter::Scatter;

/// The bytes of a key.
pub(super) enum StoreKey {
    Short(ShortKey),
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<StoreKey>() == 24);

impl StoreKey {
    pub(super) fn new(key: &[u8]) -> Self {
        ShortKey::new(key).map_or_else(|| Self::Long(key.into()), Self::Short)
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(key) => key.bytes(),
            Self::Long(bytes) => bytes,
        }
    }
}

/// What a key of this length takes beyond its 24 bytes.
pub(super) fn heap_bytes(len: usize) -> usize {
    if len > ShortKey::MAX_LEN { len } else { 0 }
}

impl PartialEq for StoreKey {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for StoreKey {}

impl Hash for StoreKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.bytes());
    }
}

/// A key as the tables of a group's stores are searched for it: with its hash.
///
/// It is made once, before the store is known, as the hash says which one it is. In a store that scatters otherwise it
/// finds nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought<'a> {
    bytes: &'a [u8],
    hash: u64,
}

impl<'a> Sought<'a> {
    #[inline]
    pub(crate) fn new(key: &'a [u8], scatter: Scatter) -> Self {
        Self { bytes: key, hash: scatter.hash(key) }
    }

    /// Of the table; what is left of the key when it has gone, too.
    #[inline]
    pub(crate) fn hash(self) -> u64 {
        self.hash
    }

    pub(super) fn to_stored(self) -> StoreKey {
        StoreKey::new(self.bytes)
    }

    pub(super) fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

/// What a table can be searched by.
pub(super) trait Search {
    fn bytes(&self) -> &[u8];
    /// If it is known.
    fn hash(&self) -> Option<u64>;
}

impl Search for StoreKey {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    fn bytes(&self) -> &[u8] {
        self.bytes()
    }

    fn hash(&self) -> Option<u64> {
        None
    }
}

impl Search for Sought<'_> {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    fn bytes(&self) -> &[u8] {
        self.bytes
    }

    fn hash(&self) -> Option<u64> {
        Some(self.hash)
    }
}

impl Hash for dyn Search + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match Search::hash(self) {
            Some(hash) => state.write_u64(hash),
            None => state.write(self.bytes()),
        }
    }
}

impl PartialEq for dyn Search + '_ {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for dyn Search + '_ {}

impl<'a> Borrow<dyn Search + 'a> for StoreKey {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    fn borrow(&self) -> &(dyn Search + 'a) {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_lengths_come_back_as_they_were() {
        for len in [0, 1, 21, 22, 23, 255, 256, 1000] {
            let bytes: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let key = StoreKey::new(&bytes);
            assert_eq!(key.bytes(), bytes);
            assert_eq!(matches!(key, StoreKey::Long(_)), len > 22);
        }
    }

    #[test]
    fn a_key_with_zeros_at_its_end_is_another_key() {
        assert!(StoreKey::new(b"a") != StoreKey::new(b"a\0"));
        assert!(StoreKey::new(b"") != StoreKey::new(b"\0"));
    }

    #[test]
    fn the_same_hash_is_not_yet_the_same_key() {
        let [a, b] = [b"a", b"b"].map(|bytes| Sought { bytes, hash: 1 });
        assert!(&a as &dyn Search != &b as &dyn Search);
        assert!(&a as &dyn Search == &StoreKey::new(b"a") as &dyn Search);
    }
}
