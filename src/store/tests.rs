//! A store is held against the sentences of its header (`tests/stays.rs`: who stays; `tests/lives.rs`: lives and
//! sweeps), and then against a model (`tests/model.rs`): one plain row of entries. Here is what all three make use of.

mod lives;
mod model;
mod stays;

use std::sync::Arc;
use std::time::Duration;

use super::cost::overhead;
use super::*;
use crate::lifespan::Lifespan;

/// Counted by its owners, so that a test sees whether a store still holds one.
type Value = Arc<u32>;

/// What each entry of the examples costs: a short key, a weight of 100, and the bookkeeping.
const ONE: usize = 100 + overhead::<Value>();

/// The slot of all keys: a test says of each get where that lies.
const SLOT: Slot = Slot(5);

const GRACE: Duration = Duration::from_secs(20);

fn second(n: u64) -> Moment {
    Moment::after_start(Duration::from_secs(n))
}

fn scatter() -> Scatter {
    Scatter::fixed(7)
}

fn key(name: &str) -> Sought<'_> {
    sought(name.as_bytes())
}

fn sought(key: &[u8]) -> Sought<'_> {
    Sought::new(key, scatter())
}

/// Lives from the first second to the tenth.
fn entry(value: u32, weight: usize) -> Entry<Value> {
    Entry { value: Some(Arc::new(value)), weight, life: Lifespan::new(second(0), second(10)), tagged: None }
}

/// An example: a store that is asked in its first second, and what it has let go of.
struct Example {
    store: Store<Value>,
    dropped: Dropped<Value>,
}

impl Example {
    /// Room for this many entries, all but one of them protected, and for how many hot ones among them.
    fn with_room(all: usize, hot: usize) -> Self {
        Self { store: Store::new(all * ONE, hot * ONE, GRACE, scatter()), dropped: Dropped::default() }
    }

    /// Inserts an entry for each letter.
    fn add(&mut self, names: &str, place: Place) {
        for name in names.chars().map(String::from) {
            assert!(self.insert(&name, entry(0, 100), place), "{name} was refused");
        }
    }

    fn insert(&mut self, name: &str, entry: Entry<Value>, place: Place) -> bool {
        self.store.insert(&key(name), SLOT, entry, place, &mut self.dropped)
    }

    fn get(&mut self, name: &str, place: Place) -> Option<Value> {
        self.get_at(name, place, second(1))
    }

    /// Asks for an entry for each letter.
    fn use_all(&mut self, names: &str, place: Place) {
        for name in names.chars().map(String::from) {
            assert!(self.get(&name, place).is_some(), "{name} is not there");
        }
    }

    fn get_at(&mut self, name: &str, place: Place, now: Moment) -> Option<Value> {
        let value = self.store.look(&key(name), |_| place, now).map(|(found, _)| found.value().cloned());
        if value.is_none() {
            self.store.missed(&key(name), now, &mut self.dropped);
        }
        value.flatten()
    }

    /// The keys in main and in hot: the protected ones, a bar, those on probation; the oldest of each first.
    fn holds(&self) -> [String; 2] {
        [&self.store.main, &self.store.hot].map(|side| {
            let names = |rank| -> String {
                side.queue(rank).oldest_first().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
            };
            format!("{}|{}", names(Rank::Protected), names(Rank::Probation))
        })
    }
}
