//! peerage beside what one would use in its place: the same work for everybody, in one run, side by side.
//!
//! See the README of this crate for what is measured, how each contender is set up, and why that is fair.

pub mod beside;
pub mod bytes_per_entry;
pub mod contenders;
pub mod counting;
pub mod cpu;
pub mod data;
pub mod hits;
pub mod load;
pub mod numbers;
pub mod options;
pub mod pinned;
pub mod ratios;
pub mod remote;
pub mod report;
pub mod servers;
pub mod soak;
pub mod table;
