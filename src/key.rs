//! Keys: what a caller asks for, their hash, their slot.
//!
//! A key is any string of bytes up to [`Key::MAX_LEN`]. Its hash is SipHash-1-3 with a key that the wire protocol
//! fixes, so that every node of every implementation agrees on it; the top 16 bits are its slot. The hash is worked out
//! once per request that no cache can answer at once, and carried along in a [`HashedKey`] or a [`KeyRef`].
//!
//! A fixed hash can be aimed at. It decides who owns a key, which nobody gains from; where it could hurt, in the tables
//! of one process, it is mixed with a seed of that process. What is cached is found by a hash of its own, `scatter.rs`.

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use siphasher::sip::SipHasher13;

use crate::error::Error;

/// How many equal parts the hashed keyspace has.
pub(crate) const SLOTS: usize = 1 << 16;

/// The two halves of the SipHash key, fixed by version 1 of the wire protocol: the ASCII text `peerage placemt1`,
/// little-endian.
const SIP_KEY: (u64, u64) = (u64::from_le_bytes(*b"peerage "), u64::from_le_bytes(*b"placemt1"));

/// SipHash-1-3 under the protocol's key.
pub(crate) fn protocol_hash(bytes: &[u8]) -> u64 {
    SipHasher13::new_with_keys(SIP_KEY.0, SIP_KEY.1).hash(bytes)
}

/// Whether this is longer than a key can be.
#[inline]
pub(crate) fn is_too_long(key: &[u8]) -> bool {
    key.len() > Key::MAX_LEN
}

/// A key: any bytes, cheap to clone. One of up to 22 bytes allocates nothing.
///
/// Loaders are called with one. To ask for a key, anything that is [`AsKey`] will do.
#[derive(Clone)]
pub struct Key(Held);

#[derive(Clone)]
enum Held {
    Short(ShortKey),
    Long(Arc<[u8]>),
}

const _: () = assert!(size_of::<Key>() == 24);

/// The bytes of a key that is short enough to need no block of its own: it lies where it is held, beside a byte that
/// tells it from a long one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShortKey {
    len: u8,
    bytes: [u8; Self::MAX_LEN],
}

impl ShortKey {
    /// With their length and that byte, three words.
    pub(crate) const MAX_LEN: usize = 22;

    /// None if there are too many.
    #[inline]
    pub(crate) fn new(key: &[u8]) -> Option<Self> {
        let len = u8::try_from(key.len()).ok().filter(|_| key.len() <= Self::MAX_LEN)?;
        let mut bytes = [0; Self::MAX_LEN];
        bytes[..key.len()].copy_from_slice(key);
        Some(Self { len, bytes })
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Key {
    /// The longest key that a group takes: 64 KiB.
    pub const MAX_LEN: usize = 64 << 10;

    /// Copies `bytes` into a key. The length is checked where the key is used, not here.
    #[must_use]
    pub fn new(bytes: &(impl AsKey + ?Sized)) -> Self {
        let bytes = bytes.as_key();
        Self(ShortKey::new(bytes).map_or_else(|| Held::Long(Arc::from(bytes)), Held::Short))
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Held::Short(key) => key.bytes(),
            Held::Long(key) => key,
        }
    }

    /// The key as text, or `None` if it is not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self).ok()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

/// As the bytes alone, by which a table of keys can be searched.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl<T: AsKey + ?Sized> From<&T> for Key {
    fn from(key: &T) -> Self {
        Self::new(key)
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Writes the key as text, with bytes that are not UTF-8 replaced.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(\"{}\")", self.escape_ascii())
    }
}

/// What can be asked for: text, bytes, or a [`Key`] itself.
///
/// A hit allocates nothing, because a group takes keys by `&(impl AsKey + ?Sized)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a key: keys are text or bytes",
    label = "for a number, write `&id.to_string()` or `&id.to_be_bytes()`"
)]
pub trait AsKey: Sync {
    /// The key's bytes.
    fn as_key(&self) -> &[u8];
}

macro_rules! as_key {
    ($($type:ty),*) => {$(
        impl AsKey for $type {
            fn as_key(&self) -> &[u8] {
                let text_or_bytes: &[u8] = (**self).as_ref();
                text_or_bytes
            }
        }
    )*};
}
as_key!(String, Box<str>, Arc<str>, Cow<'_, str>, Vec<u8>, Bytes);

impl AsKey for str {
    fn as_key(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsKey for [u8] {
    fn as_key(&self) -> &[u8] {
        self
    }
}

impl AsKey for Key {
    fn as_key(&self) -> &[u8] {
        self
    }
}

impl<const N: usize> AsKey for [u8; N] {
    fn as_key(&self) -> &[u8] {
        self
    }
}

impl<T: AsKey + ?Sized> AsKey for &T {
    fn as_key(&self) -> &[u8] {
        (**self).as_key()
    }
}

/// The hash of a key under the wire protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    #[inline]
    pub(crate) fn of(key: &[u8]) -> Self {
        Self(protocol_hash(key))
    }

    /// The part of the keyspace that the key lies in.
    pub(crate) fn slot(self) -> Slot {
        Slot((self.0 >> 48) as u16)
    }
}

/// One of the [`SLOTS`] equal parts of the hashed keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) u16);

impl Slot {
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A borrowed key with its hash: what a lookup carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRef<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) hash: KeyHash,
}

impl<'a> KeyRef<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, hash: KeyHash::of(bytes) }
    }

    /// Fails if the key is longer than a key can be.
    pub(crate) fn check(self) -> Result<Self, Error> {
        let too_long = || Error::KeyTooLong { len: self.bytes.len(), limit: Key::MAX_LEN };
        if is_too_long(self.bytes) { Err(too_long()) } else { Ok(self) }
    }

    pub(crate) fn to_owned(self) -> HashedKey {
        HashedKey { key: Key::new(self.bytes), hash: self.hash }
    }
}

/// An owned key with its hash: what tables and flights keep. Its [`Hash`] is the hash that it carries, so a table that
/// is keyed by it needs a hasher that mixes one `u64`, and no second pass over the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HashedKey {
    pub(crate) key: Key,
    pub(crate) hash: KeyHash,
}

impl HashedKey {
    pub(crate) fn new(key: Key) -> Self {
        let hash = KeyHash::of(&key);
        Self { key, hash }
    }

    pub(crate) fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { bytes: &self.key, hash: self.hash }
    }
}

impl Hash for HashedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash.0);
    }
}

/// Lets tables keyed by [`HashedKey`] be searched with a [`KeyRef`], without allocating an owned key first.
pub(crate) trait Probe {
    fn probe(&self) -> KeyRef<'_>;
}

impl Probe for HashedKey {
    fn probe(&self) -> KeyRef<'_> {
        self.as_ref()
    }
}

impl Probe for KeyRef<'_> {
    fn probe(&self) -> KeyRef<'_> {
        *self
    }
}

impl Hash for dyn Probe + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.probe().hash.0);
    }
}

impl PartialEq for dyn Probe + '_ {
    fn eq(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.probe(), other.probe());
        mine.hash == theirs.hash && mine.bytes == theirs.bytes
    }
}

impl Eq for dyn Probe + '_ {}

impl<'a> Borrow<dyn Probe + 'a> for HashedKey {
    fn borrow(&self) -> &(dyn Probe + 'a) {
        self
    }
}

/// Finds a key's bucket from the one `u64` that the key brings, the hash of the wire protocol, and a seed.
///
/// Everybody can work out the hash of the wire, and so choose keys that agree in some of its bits; and within one node
/// its top bits are far from random, as they say who owns the key. A table picks the bucket by the low bits, and tells
/// keys in it apart by the top seven. So the hash is blended with the seed, and then every bit of the result is made to
/// hang on every bit of the blend: who does not know the seed cannot aim. The mixing is the finalizer of SplitMix64, a
/// bijection: different hashes stay different.
///
/// It cannot part keys whose hashes agree in all 64 bits: they meet in one bucket and are compared byte by byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    /// What a hash becomes.
    #[inline]
    pub(crate) fn mix(self, hash: u64) -> u64 {
        let mut mixed = self.0 ^ hash;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl BuildHasher for Seeded {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer(self.0)
    }
}

#[derive(Debug)]
pub(crate) struct Mixer(u64);

impl Hasher for Mixer {
    fn write_u64(&mut self, hash: u64) {
        self.0 = Seeded(self.0).mix(hash);
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key brings its hash as one u64");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_the_top_of_the_hash() {
        let hash = KeyHash(0xabcd_0123_4567_89ef);
        assert_eq!(hash.slot(), Slot(0xabcd));
    }

    #[test]
    fn a_key_is_found_by_a_borrowed_one() {
        let mut table = std::collections::HashMap::new();
        table.insert(HashedKey::new(Key::new("user:42")), 1);
        let probe = KeyRef::new(b"user:42");
        assert_eq!(table.get(&probe as &dyn Probe), Some(&1));
        let other = KeyRef { bytes: b"user:43", hash: probe.hash };
        assert_eq!(table.get(&other as &dyn Probe), None, "the same hash is not yet the same key");
    }

    #[test]
    fn a_key_is_its_bytes_wherever_they_lie() {
        let of = |len: usize| Key::new(&vec![7; len]);
        for len in [0, 1, 21, 22, 23, 24, 255, 256, Key::MAX_LEN] {
            let key = of(len);
            assert_eq!(key.as_bytes(), vec![7; len]);
            assert_eq!(matches!(key.0, Held::Short(_)), len <= 22);
            assert!(key == key.clone() && key < of(len + 1) && key != of(len + 1), "{len}");
            assert!(len == 0 || key != Key::new(&vec![8; len]) && key < Key::new(&vec![8; len]), "{len}");
            let keys = std::collections::HashSet::from([key]);
            assert!(keys.contains(&vec![7; len][..]) && !keys.contains(&vec![7; len + 1][..]), "{len}");
        }
        assert!(Key::new("a") != Key::new("a\0"), "room that is left is no part of it");
    }

    #[test]
    fn keys_print_as_what_they_are() {
        assert_eq!(Key::new("a b").to_string(), "a b");
        assert_eq!(format!("{:?}", Key::new(&b"\0\xff"[..])), r#"Key("\x00\xff")"#);
        assert_eq!(Key::new(&[0xff]).as_str(), None);
    }

    fn mixed(seed: u64, hash: u64) -> u64 {
        Seeded(seed).hash_one(hash)
    }

    #[test]
    fn keys_of_one_slot_still_differ_in_the_bits_that_a_table_looks_at() {
        const SLOT: u64 = 0xabcd << 48;
        let mut tops = [0_u32; 128];
        let mut lows = [0_u32; 128];
        for hash in 0..128 * 64 {
            let mixed = mixed(7, SLOT | hash);
            tops[(mixed >> 57) as usize] += 1;
            lows[(mixed & 127) as usize] += 1;
        }
        for count in tops.into_iter().chain(lows) {
            assert!((24..=104).contains(&count), "{count} of 64 expected");
        }
    }

    #[test]
    fn keys_that_meet_under_one_seed_part_under_another() {
        let meet = |seed, hash: &u64| mixed(seed, *hash).trailing_zeros() >= 8;
        let chosen: Vec<u64> = (0..100_000).filter(|hash| meet(1, hash)).collect();
        let still = chosen.iter().filter(|hash| meet(2, hash)).count();
        assert!(chosen.len() > 200 && still < 20, "{still} of {} meet again", chosen.len());
    }
}
