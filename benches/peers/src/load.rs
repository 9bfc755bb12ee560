//! So many gets in flight, for a while.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::cpu;

/// A client that gets values from another process.
pub trait Remote: Clone + Send + Sync + 'static {
    /// The value of a key that the other process has.
    fn get(&self, key: &str) -> impl Future<Output = Result<Bytes>> + Send;
}

/// What to do for how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many tasks, each with one get under way.
    pub in_flight: usize,
    /// The bytes of each value.
    pub size: usize,
    /// How long to run before it counts.
    pub warm: Duration,
    /// How long it counts.
    pub window: Duration,
    /// How long each task rests after a get.
    pub gap: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Gets that were answered within the window.
    pub gets: u64,
    /// The window's length, as it turned out.
    pub wall: Duration,
    /// How long single gets took, in nanoseconds, sorted.
    pub times: Vec<u32>,
    /// Processor time of both sides.
    pub cpu: Duration,
}

impl Measured {
    /// Gets a second.
    pub fn rate(&self) -> f64 {
        self.gets as f64 / self.wall.as_secs_f64()
    }

    /// Seconds of processor time for a million gets, both sides together.
    pub fn cpu_of_a_million(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.gets as f64
    }
}

const WARM: u8 = 0;
const COUNTED: u8 = 1;
const OVER: u8 = 2;

/// Runs a load. Fails as soon as one get does, or brings a value of another size.
///
/// The tasks share no key: no get can join another one's flight, which some contenders would do.
pub async fn run<R: Remote>(remote: &R, keys: &Arc<[String]>, load: Load, processes: &[u32]) -> Result<Measured> {
    ensure!(keys.len() >= load.in_flight, "{} keys are too few for {}", keys.len(), load.in_flight);
    let phase = Arc::new(AtomicU8::new(WARM));
    let mut tasks = JoinSet::new();
    for first in 0..load.in_flight {
        tasks.spawn(ask(remote.clone(), Arc::clone(keys), first, load, Arc::clone(&phase)));
    }
    tokio::time::sleep(load.warm).await;
    let (before, began) = (cpu::used(processes)?, Instant::now());
    phase.store(COUNTED, Ordering::Relaxed);
    tokio::time::sleep(load.window).await;
    phase.store(OVER, Ordering::Relaxed);
    let (wall, after) = (began.elapsed(), cpu::used(processes)?);
    let mut measured = Measured { gets: 0, wall, times: Vec::new(), cpu: after.saturating_sub(before) };
    while let Some(asked) = tasks.join_next().await {
        let (gets, times) = asked??;
        measured.gets += gets;
        measured.times.extend(times);
    }
    measured.times.sort_unstable();
    Ok(measured)
}

/// One task: its own keys, one after the other. Of many, only some are timed: reading the clock is not free.
async fn ask<R: Remote>(
    remote: R,
    keys: Arc<[String]>,
    first: usize,
    load: Load,
    phase: Arc<AtomicU8>,
) -> Result<(u64, Vec<u32>)> {
    let every = if load.in_flight > 16 { 8 } else { 1 };
    let (mut gets, mut times) = (0, Vec::new());
    let own = keys[first..].iter().step_by(load.in_flight);
    for (turn, key) in own.cycle().enumerate() {
        let phase = phase.load(Ordering::Relaxed);
        if phase == OVER {
            break;
        }
        let began = (turn % every == 0).then(Instant::now);
        let value = remote.get(key).await?;
        ensure!(value.len() == load.size, "{} bytes came for {key}", value.len());
        if phase == COUNTED {
            gets += 1;
            times.extend(began.map(|began| u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX)));
        }
        if !load.gap.is_zero() {
            tokio::time::sleep(load.gap).await;
        }
    }
    Ok((gets, times))
}
