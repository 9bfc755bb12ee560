//! A key as a store keeps it: in 24 bytes if it is short, and without its hash.
//!
//! A shared key costs a block with two counts besides its handle, and its hash eight bytes more. A million entries of
//! 16 byte keys are 24 MB less without: so short keys lie in the entry itself, and the hash is worked out again where a
//! table grows or an entry moves. Whoever searches brings the hash along, so a hit works out none.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

use crate::key::{KeyRef, protocol_hash};

/// The longest key that needs no block of its own.
const SHORT: usize = 22;

/// The bytes of a key.
pub(super) enum StoreKey {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<StoreKey>() == 24);

impl StoreKey {
    pub(super) fn new(key: &[u8]) -> Self {
        match u8::try_from(key.len()) {
            Ok(len) if key.len() <= SHORT => {
                let mut bytes = [0; SHORT];
                bytes[..key.len()].copy_from_slice(key);
                Self::Short { len, bytes }
            }
            _ => Self::Long(key.into()),
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }

    /// The hash under the wire protocol, worked out anew.
    pub(super) fn hash(&self) -> u64 {
        protocol_hash(self.bytes())
    }
}

/// What a key of this length takes beyond its 24 bytes.
pub(super) fn heap_bytes(len: usize) -> usize {
    if len > SHORT { len } else { 0 }
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
        state.write_u64(self.hash());
    }
}

/// What a table is searched by: bytes, and a hash that is brought along or worked out.
pub(super) trait Sought {
    fn bytes(&self) -> &[u8];
    fn hash(&self) -> u64;
}

impl Sought for StoreKey {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    fn bytes(&self) -> &[u8] {
        self.bytes()
    }

    fn hash(&self) -> u64 {
        self.hash()
    }
}

impl Sought for KeyRef<'_> {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    fn bytes(&self) -> &[u8] {
        self.bytes
    }

    fn hash(&self) -> u64 {
        self.hash.0
    }
}

impl Hash for dyn Sought + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(Sought::hash(self));
    }
}

impl PartialEq for dyn Sought + '_ {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for dyn Sought + '_ {}

impl<'a> Borrow<dyn Sought + 'a> for StoreKey {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    fn borrow(&self) -> &(dyn Sought + 'a) {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_lengths_come_back_as_they_were() {
        for len in [0, 1, SHORT - 1, SHORT, SHORT + 1, 255, 256, 1000] {
            let bytes: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let key = StoreKey::new(&bytes);
            assert_eq!(key.bytes(), bytes);
            assert_eq!(matches!(key, StoreKey::Long(_)), len > SHORT);
            assert_eq!(key.hash(), KeyRef::new(&bytes).hash.0);
        }
    }

    #[test]
    fn a_key_with_zeros_at_its_end_is_another_key() {
        assert!(StoreKey::new(b"a") != StoreKey::new(b"a\0"));
        assert!(StoreKey::new(b"") != StoreKey::new(b"\0"));
    }

    #[test]
    fn the_same_hash_is_not_yet_the_same_key() {
        let [a, b] = [b"a", b"b"].map(|bytes| KeyRef { bytes, hash: KeyRef::new(b"same").hash });
        assert!(&a as &dyn Sought != &b as &dyn Sought);
        assert!(&a as &dyn Sought == &StoreKey::new(b"a") as &dyn Sought);
    }
}
