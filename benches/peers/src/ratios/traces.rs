//! Traces: what popularity does in theory, what breaks a cache in practice, and what the user brings.

use std::collections::HashMap;
use std::io::BufRead;

use super::Request;

/// How many keys the Zipf traces choose from.
pub const KEYS: u32 = 1_000_000;

/// A stream of numbers from a seed (SplitMix64 by Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Below `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        u32::try_from(((self.next() >> 32) * u64::from(end)) >> 32).expect("a product of two halves")
    }

    /// From the standard normal distribution (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// Ranks whose popularity falls as a power of the rank: rank 0 is asked for most.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// The chance of this rank or a more popular one.
    cumulated: Vec<f64>,
}

impl Zipf {
    /// So many ranks, with this exponent.
    pub fn new(ranks: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut cumulated: Vec<f64> = (1..=ranks)
            .map(|rank| {
                sum += f64::from(rank).powf(-exponent);
                sum
            })
            .collect();
        for chance in &mut cumulated {
            *chance /= sum;
        }
        Self { cumulated }
    }

    /// Rolls a rank.
    pub fn rank(&self, dice: &mut Dice) -> u32 {
        let chance = dice.unit();
        let rank = self.cumulated.partition_point(|cumulated| *cumulated <= chance);
        u32::try_from(rank.min(self.cumulated.len() - 1)).expect("as many ranks as a `u32` can count")
    }
}

/// Numbers in an order that has nothing to do with their size, so that popular keys are no neighbours.
fn shuffled(count: u32, dice: &mut Dice) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    for end in (1..count).rev() {
        numbers.swap(end as usize, dice.below(end + 1) as usize);
    }
    numbers
}

fn of_one(key: u32) -> Request {
    Request { key, size: 1 }
}

/// Keys asked for by a Zipf law that does not change.
pub fn zipf(exponent: f64, requests: usize, seed: u64) -> Vec<Request> {
    let (law, mut dice) = (Zipf::new(KEYS, exponent), Dice::new(seed));
    let keys = shuffled(KEYS, &mut dice);
    (0..requests).map(|_| of_one(keys[law.rank(&mut dice) as usize])).collect()
}

/// How many keys a scan walks through; twice as many requests pass before the next one.
pub const SCAN: u32 = 50_000;

/// A Zipf law, with scans mixed in: runs through keys that nobody asks for again, a third of all requests.
pub fn polluted(exponent: f64, requests: usize, seed: u64) -> Vec<Request> {
    let (law, mut dice) = (Zipf::new(KEYS, exponent), Dice::new(seed));
    let keys = shuffled(KEYS, &mut dice);
    let mut trace = Vec::with_capacity(requests + 3 * SCAN as usize);
    let mut next = KEYS;
    while trace.len() < requests {
        trace.extend((0..2 * SCAN).map(|_| of_one(keys[law.rank(&mut dice) as usize])));
        trace.extend((next..next + SCAN).map(of_one));
        next += SCAN;
    }
    trace.truncate(requests);
    trace
}

/// After how many requests popularity drifts, and by how many ranks.
pub const DRIFT: (usize, usize) = (500_000, 50_000);

/// A Zipf law whose popular keys change: now and then the most popular 50,000 fall to the bottom, and all others rise.
pub fn drifting(exponent: f64, requests: usize, seed: u64) -> Vec<Request> {
    let (law, mut dice) = (Zipf::new(KEYS, exponent), Dice::new(seed));
    let keys = shuffled(KEYS, &mut dice);
    let key = |now: usize| {
        let drifted = now / DRIFT.0 * DRIFT.1;
        keys[(law.rank(&mut dice) as usize + drifted) % keys.len()]
    };
    (0..requests).map(key).map(of_one).collect()
}

/// All keys in turn, again and again.
pub fn looping(keys: u32, requests: usize) -> Vec<Request> {
    (0..keys).cycle().take(requests).map(of_one).collect()
}

/// The median of the sizes, and the standard deviation of their logarithm.
const SIZES: (f64, f64) = (8192.0, 1.5);

/// A Zipf law over values of many sizes: log-normal, half of them below 8 KiB, within 100 B and 1 MiB, and no larger
/// for being popular. On average they have some 24 KiB.
pub fn sized(exponent: f64, requests: usize, seed: u64) -> Vec<Request> {
    let (law, mut dice) = (Zipf::new(KEYS, exponent), Dice::new(seed));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 100 to 1 MiB")]
    let sizes: Vec<u32> =
        (0..KEYS).map(|_| (SIZES.0 * (SIZES.1 * dice.normal()).exp()).clamp(100.0, 1_048_576.0) as u32).collect();
    let request = |key: u32| Request { key, size: sizes[key as usize] };
    (0..requests).map(|_| request(law.rank(&mut dice))).collect()
}

/// A trace from a file: a key in each line, and its size after a blank if there is one.
///
/// The size of a key is the one of its first line; without one it is 1.
pub fn read(lines: impl BufRead) -> anyhow::Result<Vec<Request>> {
    let mut known: HashMap<String, Request> = HashMap::new();
    let mut trace = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let line = line?;
        let mut words = line.split_whitespace();
        let Some(key) = words.next() else { continue };
        let size = words.next().map_or(Ok(1), str::parse);
        let size = size.map_err(|error| anyhow::anyhow!("line {}: the size: {error}", number + 1))?;
        let next = u32::try_from(known.len())?;
        trace.push(*known.entry(String::from(key)).or_insert(Request { key: next, size }));
    }
    Ok(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_another() {
        assert_eq!(zipf(0.9, 1000, 1), zipf(0.9, 1000, 1));
        assert_ne!(zipf(0.9, 1000, 1), zipf(0.9, 1000, 2));
    }

    #[test]
    fn ranks_are_rolled_as_often_as_the_law_says() {
        let (law, mut dice) = (Zipf::new(3, 1.0), Dice::new(1));
        let mut counts = [0_u32; 3];
        for _ in 0..110_000 {
            counts[law.rank(&mut dice) as usize] += 1;
        }
        // 1, 1/2 and 1/3 of 6/11 each.
        for (count, expected) in counts.into_iter().zip([60_000, 30_000, 20_000]) {
            assert!(count.abs_diff(expected) < 1000, "{counts:?}");
        }
    }

    #[test]
    fn a_third_of_a_polluted_trace_is_asked_for_once() {
        let trace = polluted(0.9, 600_000, 1);
        let scanned = trace.iter().filter(|request| request.key >= KEYS).count();
        assert_eq!((trace.len(), scanned), (600_000, 200_000));
    }

    #[test]
    fn a_file_is_read_line_by_line() {
        let trace = read("a 7\nb\n\na 9\n".as_bytes()).unwrap();
        let [a, b] = [Request { key: 0, size: 7 }, Request { key: 1, size: 1 }];
        assert_eq!(trace, [a, b, a], "a key keeps its first size");
        assert!(read("a x".as_bytes()).unwrap_err().to_string().contains("line 1"));
    }
}
