//! How a value becomes bytes and back, and what it weighs.
//!
//! A group caches values; bytes appear only on the wire. [`Raw`] carries `Bytes`, `Vec<u8>` and `String` and is what a
//! group has unless told otherwise. [`Postcard`] and [`Json`] carry any serde type (features of the same names),
//! [`Prost`] any protobuf message, [`Shared`] an `Arc<T>` of anything that another codec carries. [`Weighed`] is for
//! values that take more memory than their encoding tells.

use std::mem::size_of;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::CodecError;

/// Turns values of type `V` into bytes and back, and says what they weigh.
///
/// All nodes must use the same codec for the same group: when the layout changes, change the group's
/// [`schema`](crate::GroupBuilder::schema) too, so that nodes of the two layouts do not decode each other's values.
///
/// ```
/// use bytes::Bytes;
/// use peerage::{Codec, CodecError};
///
/// struct BigEndian;
///
/// impl Codec<u32> for BigEndian {
///     fn encode(&self, value: &u32) -> Result<Bytes, CodecError> {
///         Ok(Bytes::copy_from_slice(&value.to_be_bytes()))
///     }
///     fn decode(&self, bytes: Bytes) -> Result<u32, CodecError> {
///         let bytes = bytes[..].try_into().map_err(|_| CodecError::new("a u32 has 4 bytes"))?;
///         Ok(u32::from_be_bytes(bytes))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not carry values of type `{V}`",
    label = "give the group a codec for `{V}`",
    note = "`.codec(Postcard)` or `.codec(Json)` for a serde type, `.codec(Prost)` for a protobuf message",
    note = "`.codec(Shared(Postcard))` for an `Arc` of a serde type, `.codec(Shared(Raw))` for an `Arc<String>`"
)]
pub trait Codec<V>: Send + Sync + 'static {
    /// The value as bytes.
    ///
    /// # Errors
    /// If the value has no encoding; the get that asked for it fails with [`Error::Codec`](crate::Error::Codec).
    fn encode(&self, value: &V) -> Result<Bytes, CodecError>;

    /// The value that `bytes` stand for. They come from another process: whatever they are, it must not panic.
    ///
    /// # Errors
    /// If they do not decode; the node then loads the value itself.
    fn decode(&self, bytes: Bytes) -> Result<V, CodecError>;

    /// How many bytes [`encode`](Self::encode) would make. Unless the codec knows better, it encodes to find out.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn encoded_len(&self, value: &V) -> Result<usize, CodecError> {
        self.encode(value).map(|bytes| bytes.len())
    }

    /// What the value costs in memory, in bytes, for the group's budget: unless the codec knows better, its encoded
    /// length plus the size of `V`. The group knows nothing else of it: where a value takes more than this says, so
    /// does the group's cache. [`Weighed`] has a function say it.
    fn weight(&self, _value: &V, encoded_len: usize) -> usize {
        encoded_len.saturating_add(size_of::<V>())
    }

    /// Whether the bytes of values that peers ask for again and again are worth keeping, in an eighth of the group's
    /// capacity. Not if [`encode`](Self::encode) hands out a reference, as that of [`Bytes`] does.
    fn keeps_encoded(&self) -> bool {
        true
    }
}

/// What a `Bytes` keeps besides its bytes once it is shared: a pointer, a capacity and a count.
const SHARED_BYTES: usize = 3 * size_of::<usize>();

/// Carries `Bytes`, `Vec<u8>` and `String` as they are. The default.
///
/// A `Bytes` weighs as much as its length says. One that is a slice keeps the whole buffer that it is a part of, for as
/// long as it is cached, and does not tell how large that is: so load and insert a copy ([`Bytes::copy_from_slice`]) of
/// what is a small part of something large. What comes from peers is copied already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec<Bytes> for Raw {
    fn encode(&self, value: &Bytes) -> Result<Bytes, CodecError> {
        Ok(value.clone())
    }

    fn decode(&self, bytes: Bytes) -> Result<Bytes, CodecError> {
        Ok(bytes)
    }

    fn encoded_len(&self, value: &Bytes) -> Result<usize, CodecError> {
        Ok(value.len())
    }

    fn weight(&self, value: &Bytes, _encoded_len: usize) -> usize {
        // With the block of counts that the first clone of a `Bytes` makes, and a hit clones.
        value.len().saturating_add(size_of::<Bytes>() + SHARED_BYTES)
    }

    fn keeps_encoded(&self) -> bool {
        false
    }
}

impl Codec<Vec<u8>> for Raw {
    fn encode(&self, value: &Vec<u8>) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(value))
    }

    fn decode(&self, bytes: Bytes) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.into())
    }

    fn encoded_len(&self, value: &Vec<u8>) -> Result<usize, CodecError> {
        Ok(value.len())
    }

    fn weight(&self, value: &Vec<u8>, _encoded_len: usize) -> usize {
        value.capacity().saturating_add(size_of::<Vec<u8>>())
    }
}

impl Codec<String> for Raw {
    fn encode(&self, value: &String) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(value.as_bytes()))
    }

    fn decode(&self, bytes: Bytes) -> Result<String, CodecError> {
        String::from_utf8(bytes.into()).map_err(CodecError::new)
    }

    fn encoded_len(&self, value: &String) -> Result<usize, CodecError> {
        Ok(value.len())
    }

    fn weight(&self, value: &String, _encoded_len: usize) -> usize {
        value.capacity().saturating_add(size_of::<String>())
    }
}

/// Carries any serde type in [Postcard](https://docs.rs/postcard), a compact binary form without field names. What a
/// value costs is taken to be its encoded length plus the size of `V`; small numbers and maps take more than that in
/// memory, and want to be [`Weighed`].
#[cfg(feature = "postcard")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Postcard;

#[cfg(feature = "postcard")]
impl<V: serde::Serialize + serde::de::DeserializeOwned> Codec<V> for Postcard {
    fn encode(&self, value: &V) -> Result<Bytes, CodecError> {
        postcard::to_stdvec(value).map(Bytes::from).map_err(CodecError::new)
    }

    fn decode(&self, bytes: Bytes) -> Result<V, CodecError> {
        let (value, rest) = postcard::take_from_bytes(&bytes).map_err(CodecError::new)?;
        // Bytes left over mean that another layout wrote them, even where a shorter one happens to decode.
        if rest.is_empty() { Ok(value) } else { Err(CodecError::new(format!("{} bytes left over", rest.len()))) }
    }
}

/// Carries any serde type as JSON, which a person and other languages can read. What a value costs is taken to be its
/// encoded length plus the size of `V`, unless it is [`Weighed`].
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

#[cfg(feature = "json")]
impl<V: serde::Serialize + serde::de::DeserializeOwned> Codec<V> for Json {
    fn encode(&self, value: &V) -> Result<Bytes, CodecError> {
        serde_json::to_vec(value).map(Bytes::from).map_err(CodecError::new)
    }

    fn decode(&self, bytes: Bytes) -> Result<V, CodecError> {
        serde_json::from_slice(&bytes).map_err(CodecError::new)
    }
}

/// Carries any protobuf message that [prost](https://docs.rs/prost) generated. What a value costs is taken to be its
/// encoded length plus the size of `V`, unless it is [`Weighed`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Prost;

impl<V: prost::Message + Default> Codec<V> for Prost {
    fn encode(&self, value: &V) -> Result<Bytes, CodecError> {
        Ok(Bytes::from(value.encode_to_vec()))
    }

    fn decode(&self, bytes: Bytes) -> Result<V, CodecError> {
        V::decode(bytes).map_err(CodecError::new)
    }

    fn encoded_len(&self, value: &V) -> Result<usize, CodecError> {
        Ok(prost::Message::encoded_len(value))
    }
}

/// Carries an `Arc<T>` of what the codec inside carries, so that a hit costs a reference count instead of a clone of
/// `T`. The loader returns the `Arc`.
///
/// ```
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use peerage::{Group, Key, Node, Raw, Shared};
///
/// let node = Node::local();
/// let pages: Group<Arc<String>> = node
///     .group("pages")
///     .codec(Shared(Raw))
///     .loader(|key: Key| async move { Ok::<_, std::io::Error>(Arc::new(format!("<h1>{key}</h1>"))) })
///     .build()?;
/// # drop(pages); Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared<C>(pub C);

impl<T: Send + Sync + 'static, C: Codec<T>> Codec<Arc<T>> for Shared<C> {
    fn encode(&self, value: &Arc<T>) -> Result<Bytes, CodecError> {
        self.0.encode(value)
    }

    fn decode(&self, bytes: Bytes) -> Result<Arc<T>, CodecError> {
        self.0.decode(bytes).map(Arc::new)
    }

    fn encoded_len(&self, value: &Arc<T>) -> Result<usize, CodecError> {
        self.0.encoded_len(value)
    }

    fn weight(&self, value: &Arc<T>, encoded_len: usize) -> usize {
        // The pointer, the two counts beside the value, and the value as the codec inside weighs it.
        let counts = 2 * size_of::<usize>();
        self.0.weight(value, encoded_len).saturating_add(size_of::<Arc<T>>() + counts)
    }

    fn keeps_encoded(&self) -> bool {
        self.0.keeps_encoded()
    }
}

/// Carries what the codec inside carries, and weighs it by a function: how many bytes a value keeps on the heap, beside
/// the size of `V` itself. For types that take more memory than their encoding tells, so that the group's capacity
/// holds for them too.
///
/// ```
/// # #[cfg(feature = "postcard")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use peerage::{Group, Key, Node, Postcard, Weighed};
///
/// let node = Node::local();
/// // Postcard has a byte for a small number, a `Vec` has eight.
/// let scores: Group<Vec<u64>> = node
///     .group("scores")
///     .codec(Weighed(Postcard, |scores: &Vec<u64>| scores.capacity() * size_of::<u64>()))
///     .loader(|_: Key| async { Ok::<_, std::io::Error>(vec![0; 1000]) })
///     .build()?;
/// # drop(scores); Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Weighed<C, F>(pub C, pub F);

impl<V, C: Codec<V>, F: Fn(&V) -> usize + Send + Sync + 'static> Codec<V> for Weighed<C, F> {
    fn encode(&self, value: &V) -> Result<Bytes, CodecError> {
        self.0.encode(value)
    }

    fn decode(&self, bytes: Bytes) -> Result<V, CodecError> {
        self.0.decode(bytes)
    }

    fn encoded_len(&self, value: &V) -> Result<usize, CodecError> {
        self.0.encoded_len(value)
    }

    fn weight(&self, value: &V, _encoded_len: usize) -> usize {
        (self.1)(value).saturating_add(size_of::<V>())
    }

    fn keeps_encoded(&self) -> bool {
        self.0.keeps_encoded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<V: PartialEq + std::fmt::Debug>(codec: &impl Codec<V>, value: &V) {
        let bytes = codec.encode(value).unwrap();
        assert_eq!(codec.encoded_len(value).unwrap(), bytes.len());
        assert_eq!(codec.decode(bytes).unwrap(), *value);
    }

    #[test]
    fn plain_values_need_no_codec() {
        round_trip(&Raw, &Bytes::from_static(b"\0\xff"));
        round_trip(&Raw, &vec![0u8, 255]);
        round_trip(&Raw, &String::from("naïve"));
        round_trip(&Shared(Raw), &Arc::new(String::from("shared")));
    }

    #[test]
    fn bytes_that_are_no_text_do_not_become_a_string() {
        assert!(Codec::<String>::decode(&Raw, Bytes::from_static(b"\xff")).is_err());
    }

    #[cfg(feature = "postcard")]
    #[test]
    fn postcard_refuses_bytes_of_another_layout() {
        round_trip(&Postcard, &(7u32, String::from("seven")));
        let longer = Codec::<(u32, u32)>::encode(&Postcard, &(1, 2)).unwrap();
        assert!(Codec::<u32>::decode(&Postcard, longer).is_err());
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_carries_serde_types() {
        round_trip(&Json, &vec![Some(1), None]);
        assert!(Codec::<u32>::decode(&Json, Bytes::from_static(b"1 2")).is_err());
    }

    #[test]
    fn prost_carries_messages() {
        round_trip(&Prost, &String::from("google.protobuf.StringValue"));
        assert!(Codec::<u64>::decode(&Prost, Bytes::from_static(b"\x08")).is_err());
    }

    #[test]
    fn a_value_weighs_its_encoding_and_itself() {
        let value = String::from("1234");
        assert_eq!(Raw.weight(&value, 4), value.capacity() + size_of::<String>());
        assert!(Shared(Raw).weight(&Arc::new(value), 4) > 4 + size_of::<String>());
    }

    #[test]
    fn a_value_that_is_weighed_crosses_as_it_would_and_weighs_what_the_function_says() {
        let codec = Weighed(Raw, |_: &String| 1000);
        let value = String::from("1234");
        round_trip(&codec, &value);
        assert_eq!(codec.weight(&value, 4), 1000 + size_of::<String>());
        assert!(Codec::<String>::keeps_encoded(&codec));
        assert!(!Codec::<Bytes>::keeps_encoded(&Weighed(Raw, Bytes::len)));
        assert_eq!(Weighed(Raw, |_: &String| usize::MAX).weight(&value, 4), usize::MAX);
    }
}
