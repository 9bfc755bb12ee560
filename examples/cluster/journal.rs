//! What was asked of the database, in a form that survives `kill -9`.
//!
//! A counter in a service's memory dies with the service, and what it counted since somebody last looked is lost. So
//! each service appends a line to its journal, a file, *before* each query: what a process has written stays in the
//! file when the process is killed, and a query can at worst be counted that was never run, never the other way round.
//! A service that is started again appends to the same file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The writing end, in a service.
#[derive(Debug)]
pub(crate) struct Journal(File);

impl Journal {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        File::options().append(true).create(true).open(path).map(Self)
    }

    /// Notes that the database is about to be asked for `key`.
    ///
    /// One write of a short line to a file in append mode: lines of several threads do not mix, and a kill leaves no
    /// half ones.
    pub(crate) fn note(&self, key: &str) -> io::Result<()> {
        (&self.0).write_all(format!("{}\n", key.escape_default()).as_bytes())
    }
}

/// The reading end, in the driver: the keys that each node has asked the database for, in order.
#[derive(Debug, Default)]
pub(crate) struct Queries(Vec<Vec<String>>);

impl Queries {
    pub(crate) fn read(journals: &[PathBuf]) -> io::Result<Self> {
        let lines = |path: &PathBuf| Ok(fs::read_to_string(path)?.lines().map(String::from).collect());
        journals.iter().map(lines).collect::<io::Result<_>>().map(Self)
    }

    pub(crate) fn of_node(&self, node: usize) -> &[String] {
        self.0.get(node).map_or(&[], Vec::as_slice)
    }

    /// The queries that came after `earlier`, an earlier reading of the same journals.
    pub(crate) fn since(&self, earlier: &Self) -> impl Iterator<Item = &str> {
        let later = |(node, keys): (usize, &'_ Vec<String>)| earlier.of_node(node).len()..keys.len();
        let ranges: Vec<_> = self.0.iter().enumerate().map(later).collect();
        self.0.iter().zip(ranges).flat_map(|(keys, range)| keys[range].iter().map(String::as_str))
    }
}
