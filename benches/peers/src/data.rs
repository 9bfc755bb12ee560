//! What is asked for: keys of 16 bytes that say how large their value is, and which.
//!
//! Every contender serves the same values. Each value is memory of its own, as in a cache that is in use: copies of one
//! buffer would all sit in the processor's cache.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use bytes::Bytes;

/// The sizes that are served, and how many keys of each.
pub const SIZES: [(usize, u32); 3] = [(100, 10_000), (1 << 10, 10_000), (16 << 10, 2_000)];

/// How many keys of a size are asked for; few enough to be filled in a moment, if the size is none of [`SIZES`].
pub fn count(size: usize) -> u32 {
    SIZES.iter().find(|(of, _)| *of == size).map_or(16, |(_, count)| *count)
}

/// The key of a value of this size.
pub fn key(size: usize, number: u32) -> String {
    format!("{size:08}{number:08}")
}

/// The keys of this size, as contenders that own every key take them.
pub fn keys(size: usize) -> Vec<String> {
    (0..count(size)).map(|number| key(size, number)).collect()
}

/// The value of a key; none if the key is not one of ours.
pub fn value(key: &str) -> Option<Bytes> {
    let (size, number) = parse(key)?;
    Some(Bytes::from(vec![fill(number); size]))
}

/// Fails unless this is the value of the key.
pub fn check(key: &str, value: &[u8]) -> Result<()> {
    let right =
        parse(key).is_some_and(|(size, number)| value.len() == size && value.iter().all(|b| *b == fill(number)));
    ensure!(right, "the value of {key} is wrong: {} bytes", value.len());
    Ok(())
}

/// All of [`SIZES`], for servers that answer from a map.
pub fn map() -> HashMap<Box<[u8]>, Bytes> {
    let keys = SIZES.iter().flat_map(|(size, _)| keys(*size));
    keys.filter_map(|key| value(&key).map(|value| (key.into_bytes().into(), value))).collect()
}

fn parse(key: &str) -> Option<(usize, u32)> {
    let (size, number) = key.split_at_checked(8)?;
    Some((size.parse().ok()?, number.parse().ok()?))
}

fn fill(number: u32) -> u8 {
    number.to_le_bytes()[0]
}
