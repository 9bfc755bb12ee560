//! The locks and atomics of the parts where threads meet: std's, or in tests with `--cfg shuttle` those of a scheduler
//! that tries out in which order threads may run (see `threads.rs`).

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};
