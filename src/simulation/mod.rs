//! Simulations: whole clusters on one thread, with a time that is turned by hand and faults from a seed.
//!
//! A service is tested against what does not happen on a developer's machine: links that work in one direction,
//! processes that stand still, crash and come back, nodes that list different members for a while. Everything is real
//! (nodes, groups, your loaders, your policies) but the network, the time and the chance: nodes talk over a
//! [`MemoryNetwork`], the time jumps to the next thing that happens, and **the same seed gives the same run**, down to
//! the last message. What fails once fails again, and [`shrink`] makes a short story of it.
//!
//! ```
//! use std::time::Duration;
//!
//! use peerage::simulation::{Cluster, Dice, Fault, run};
//! use peerage::{BoxError, ConfigError, Group, Key, Node};
//!
//! // What the service does when it starts, for each start of each node.
//! fn users(node: &Node) -> Result<Group<String>, ConfigError> {
//!     node.group("users")
//!         .time_to_live(Duration::from_secs(60))
//!         .loader(|key: Key| async move { Ok::<_, BoxError>(format!("the user of {key}")) })
//!         .build()
//! }
//!
//! for seed in 1..=10 {
//!     run(seed, async || {
//!         let mut dice = Dice::new(seed);
//!         let cluster = Cluster::start(3, users).await.unwrap();
//!         for turn in 0..50 {
//!             if dice.chance(0.2) {
//!                 let (from, to) = (dice.below(3), dice.below(3));
//!                 let fault = Fault::Cut { from, to, both_ways: dice.chance(0.5) };
//!                 cluster.inject(fault, Duration::from_millis(dice.between(10, 2000)));
//!             }
//!             // A caller on one of the nodes. (No fault of a cluster is the caller's.)
//!             let key = format!("user:{}", dice.below(20));
//!             if let Some(users) = cluster.service(dice.below(3)) {
//!                 assert_eq!(users.get(&key).await.unwrap(), format!("the user of {key}"), "turn {turn}, seed {seed}");
//!             }
//!             tokio::time::sleep(Duration::from_millis(dice.between(0, 100))).await;
//!         }
//!         cluster.heal(Duration::from_secs(10)).await.unwrap();
//!     });
//! }
//! ```
//!
//! # What makes two runs the same
//!
//! Within [`run`] the library's own chance (jitter, samples, incarnations, the seeds of its tables) comes from the
//! seed, nothing is left to other threads, and the machine has the same number of cores everywhere. What is simulated
//! has to do its part: chance from a [`Dice`], time from tokio, no `select!` without `biased`, no threads, no order of
//! a `HashMap` with the standard hasher, and no `tokio::sync::watch` that many wait on. [`Trace`] finds out: two runs
//! of a seed have the same [`hash`](Trace::hash).
//!
//! # What it does not show
//!
//! Sockets and threads: how frames travel in TCP, and what two cores do to each other. A request that its caller gives
//! up (by dropping it, or by crashing) is given up on the other side at the same time, where a real network might still
//! deliver it.

mod cluster;
mod dice;
mod fault;
mod machine;
mod shrink;
mod trace;

pub use cluster::Cluster;
pub use dice::Dice;
pub use fault::Fault;
pub use shrink::shrink;
pub use trace::Trace;

#[doc(hidden)]
pub use crate::planted::{Bug, Planted, plant};

use crate::clock::Simulated;
#[cfg(doc)]
use crate::memory::MemoryNetwork;

/// Runs something on a runtime of its own, on this thread, with a paused clock and all chance from a seed. When it has
/// ended, what is left of its tasks is dropped.
///
/// # Panics
/// If it panics, or is called inside of a runtime or of another simulation; or there is no memory for a runtime.
pub fn run<T>(seed: u64, simulated: impl AsyncFnOnce() -> T) -> T {
    let _chance = Simulated::from_seed(seed);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime without sockets can be had");
    runtime.block_on(simulated())
}

#[cfg(test)]
mod tests;
