//! Hit ratios: traces, the caches that are taken through them, and the best that anybody could have done.
//!
//! Everything here is a function of its arguments: the same seed gives the same trace, and the same numbers for every
//! cache that rolls no dice of its own.

pub mod caches;
pub mod optimum;
pub mod taste;
pub mod traces;

/// One request of a trace: a key, by its number, and what its value weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which key. Keys are numbered from 0, with few gaps.
    pub key: u32,
    /// What the value weighs: 1 where all are of equal size, else bytes.
    pub size: u32,
}

/// A cache that can be taken through a trace.
pub trait Cache {
    /// Looks for the key, and puts it in if it is not there. Says whether it was.
    fn request(&mut self, request: Request) -> bool;
}

/// How often a cache had what it was asked for, after the first quarter of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ratio {
    /// Hits for each request.
    pub by_count: f64,
    /// Bytes that hits brought, for each byte that was asked for.
    pub by_byte: f64,
}

/// What was asked for, and what of it was there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    requests: u64,
    hits: u64,
    bytes: u64,
    bytes_hit: u64,
}

impl Tally {
    /// Counts one request.
    pub fn count(&mut self, request: Request, hit: bool) {
        let size = u64::from(request.size);
        self.requests += 1;
        self.bytes += size;
        if hit {
            self.hits += 1;
            self.bytes_hit += size;
        }
    }

    /// What it comes to.
    pub fn ratio(self) -> Ratio {
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        Ratio { by_count: share(self.hits, self.requests), by_byte: share(self.bytes_hit, self.bytes) }
    }
}

/// Where the part of a trace begins that counts: a cache has the first quarter to fill.
pub fn counted_from(requests: usize) -> usize {
    requests / 4
}

/// Takes a cache through a trace.
pub fn run(cache: &mut dyn Cache, trace: &[Request]) -> Ratio {
    let (warm_up, counted) = trace.split_at(counted_from(trace.len()));
    for request in warm_up {
        cache.request(*request);
    }
    let mut tally = Tally::default();
    for request in counted {
        tally.count(*request, cache.request(*request));
    }
    tally.ratio()
}
