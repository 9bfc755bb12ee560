//! What is asked, and of whom: drawn before the run, from a seed, so that the same seed asks the same.
//!
//! Keys are asked for as people ask for things: a few very often, most hardly ever. The key of rank *r* is drawn with a
//! probability proportional to 1/*r*^skew (Zipf's law). Among the keys are some that do not exist.

use std::collections::HashSet;

use fastrand::Rng;

use crate::fleet::NODES;
use crate::options::Options;

/// How many keys do not exist, and how far apart their ranks are: some of them are popular.
const ABSENT_KEYS: usize = 20;
const ABSENT_EVERY: usize = 25;

/// One request to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// The rank of its key, counted from 0.
    key: u32,
    /// The node that it is sent to, as long as that one is in rotation.
    pub(crate) node: u8,
}

#[derive(Debug)]
pub(crate) struct Workload {
    /// All keys, the most popular one first.
    keys: Vec<String>,
    requests: Vec<Request>,
}

impl Workload {
    /// Draws the requests over the codes that exist, given in any order, and some that do not.
    pub(crate) fn draw(mut codes: Vec<String>, options: &Options) -> Self {
        let mut rng = Rng::with_seed(options.seed);
        codes.sort_unstable();
        rng.shuffle(&mut codes);
        let keys = with_absent(codes);
        let zipf = Zipf::new(keys.len(), options.skew);
        let draw = |_| Request { key: zipf.draw(&mut rng), node: rng.u8(..NODES as u8) };
        let requests = (0..options.requests).map(draw).collect();
        Self { keys, requests }
    }

    /// The request of this number, from 0.
    pub(crate) fn request(&self, number: usize) -> Option<Request> {
        self.requests.get(number).copied()
    }

    pub(crate) fn key(&self, request: Request) -> &str {
        &self.keys[request.key as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// How many different keys the first so many requests ask for.
    pub(crate) fn distinct_keys(&self, requests: usize) -> usize {
        self.requests.iter().take(requests).map(|request| request.key).collect::<HashSet<_>>().len()
    }
}

/// Puts keys that do not exist among the popular ones. No airport's code has a digit.
fn with_absent(codes: Vec<String>) -> Vec<String> {
    let mut keys = codes;
    for number in 1..=ABSENT_KEYS {
        keys.insert((number * ABSENT_EVERY).min(keys.len()), format!("NO{number}"));
    }
    keys
}

/// Zipf's distribution over a few thousand ranks, exactly: a table of running sums to search in.
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new(ranks: usize, skew: f64) -> Self {
        let weights = (1..=ranks).map(|rank| (rank as f64).powf(-skew));
        let sums = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self { sums: sums.collect() }
    }

    fn draw(&self, rng: &mut Rng) -> u32 {
        let total = self.sums.last().copied().unwrap_or_default();
        let point = rng.f64() * total;
        // The product may round up to the total itself.
        self.sums.partition_point(|&sum| sum <= point).min(self.sums.len() - 1) as u32
    }
}
