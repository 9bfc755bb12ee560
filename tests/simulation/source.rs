//! The source of truth, with versions: what loaders read, at its own pace and in its own mood.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use peerage::simulation::Dice;
use peerage::{BoxError, ConfigError, Group, Key, Loaded, Node};

use super::books::{Load, Shared};
use super::judge;
use super::plan::{Mood, Plan, Setup, tags_of};
use super::planted::Planted;
use super::world::{LOAD_TIMEOUT, NOT_FOUND_LIFE, QUEUE_TIMEOUT, REMOVAL_TIMEOUT, TIMEOUT};

/// What one call of a loader brings.
type Loads = Vec<(Key, Loaded<String>)>;

/// Clones are the same source.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) books: Shared,
    setup: Setup,
    seed: u64,
    planted: Option<Planted>,
    state: Arc<Mutex<State>>,
}

struct State {
    /// By key: its versions, and since when.
    versions: Vec<Vec<(Duration, u64)>>,
    moods: Vec<(Mood, Duration)>,
    /// How often each node was started.
    runs: Vec<u64>,
}

impl Source {
    pub(crate) fn new(plan: &Plan, planted: Option<Planted>, books: Shared) -> Self {
        let state = State {
            versions: vec![vec![(Duration::ZERO, 1)]; plan.setup.keys],
            moods: Vec::new(),
            runs: vec![0; plan.setup.nodes],
        };
        let state = Arc::new(Mutex::new(state));
        Self { books, setup: plan.setup.clone(), seed: plan.seed, planted, state }
    }

    /// What the service makes of a node when it starts.
    pub(crate) fn group(&self, node: &Node) -> Result<Group<String>, ConfigError> {
        let number = number_of(node.address());
        let run = {
            let mut state = self.state();
            state.runs[number] += 1;
            state.runs[number]
        };
        let mut books = self.books.lock();
        let start = books.stamp();
        books.starts.insert((number, run), start);
        drop(books);
        let is = |bug| self.planted == Some(bug);
        let setup = &self.setup;
        let builder = node
            .group("g")
            .capacity(if is(Planted::TakesMoreBytes) { 4 * setup.capacity } else { setup.capacity })
            .hot_share(setup.hot_share)
            .time_to_live(setup.time_to_live * if is(Planted::OutlivesItsLife) { 2 } else { 1 })
            .not_found_time_to_live(NOT_FOUND_LIFE)
            .timeout(TIMEOUT)
            .load_timeout(LOAD_TIMEOUT)
            .load_queue_timeout(QUEUE_TIMEOUT)
            .removal_timeout(REMOVAL_TIMEOUT)
            .grace(setup.grace)
            .max_concurrent_loads(setup.loads_at_a_time);
        let builder = match setup.refresh_after {
            Some(after) => builder.refresh_after(after),
            None => builder,
        };
        let source = self.clone();
        if setup.keys_per_load > 1 {
            let load = move |keys: Vec<Key>| source.load(number, run, keys);
            return builder.batch_loader(setup.keys_per_load, load).build();
        }
        let load = move |key: Key| {
            let loads = source.load(number, run, vec![key]);
            async move { loads.await?.pop().map(|(_, loaded)| loaded).ok_or(BoxError::from("no key")) }
        };
        builder.loader(load).build()
    }

    /// One call of the loader. It has begun when this returns.
    fn load(&self, node: usize, run: u64, keys: Vec<Key>) -> BoxFuture<'static, Result<Loads, BoxError>> {
        let running = Running { books: self.books.clone(), numbers: self.begin(node, run, &keys) };
        let mut dice = Dice::new(self.seed ^ (running.numbers[0] as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (takes, fails) = (self.takes(&mut dice), self.is(Mood::Failing) && dice.chance(0.5));
        let source = self.clone();
        async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            if fails {
                return Err("the source fails".into());
            }
            let loaded: Vec<_> = (running.numbers.iter().zip(keys))
                .map(|(number, key)| (key, source.value_of(*number, &mut dice)))
                .collect();
            Ok(loaded)
        }
        .boxed()
    }

    fn begin(&self, node: usize, run: u64, keys: &[Key]) -> Vec<usize> {
        let mut books = self.books.lock();
        let mut begin = |node: usize, key: &Key| {
            let key = index(key);
            let version = self.version_at(key, self.read_at(books.now()));
            let (is_insert, life) = (false, self.setup.time_to_live);
            // Every fifth version of a key is that there is none.
            let is_found = !version.is_multiple_of(5);
            let (began, ended) = (None, None);
            books.load_begins(Load { key, node, run, is_insert, began, ended, life, is_found, version })
        };
        let numbers: Vec<_> = keys.iter().map(|key| begin(node, key)).collect();
        let twins = match self.planted {
            Some(Planted::LoadsTwice) => vec![node],
            Some(Planted::LoadsElsewhere) => (0..self.setup.nodes).filter(|twin| *twin != node).collect(),
            _ => return numbers,
        };
        let twins = twins.iter().flat_map(|twin| keys.iter().map(move |key| (*twin, key)));
        let again = twins.map(|(twin, key)| begin(twin, key)).collect();
        drop(books);
        drop(Running { books: self.books.clone(), numbers: again });
        numbers
    }

    fn value_of(&self, number: usize, dice: &mut Dice) -> Loaded<String> {
        let mut books = self.books.lock();
        let load = &mut books.loads[number];
        let tags = tag_names(load.key);
        if !load.is_found {
            return Loaded::none().tags(tags);
        }
        let is_mixed_up = self.planted == Some(Planted::MixesKeysUp) && dice.chance(0.05);
        let key = if is_mixed_up { load.key + 1 } else { load.key };
        let value = Loaded::value(judge::write(key, number, dice.below(self.setup.padding))).tags(tags);
        if dice.chance(0.9) {
            return value;
        }
        load.life = Duration::from_millis(dice.between(50, 1_500));
        value.time_to_live(load.life)
    }

    /// How long a load takes: mostly no time to speak of, at times longer than it may.
    fn takes(&self, dice: &mut Dice) -> Duration {
        let usual = match dice.below(10) {
            0..3 => 0,
            3..7 => dice.between(1, 10),
            7..9 => dice.between(10, 80),
            _ => dice.between(80, 300),
        };
        Duration::from_millis(usual + if self.is(Mood::Slow) { dice.between(100, 800) } else { 0 })
    }

    /// The source changes; the new version.
    pub(crate) fn change(&self, key: usize) -> u64 {
        let now = self.books.lock().now();
        let mut state = self.state();
        let version = state.versions[key].last().unwrap().1 + 1;
        state.versions[key].push((now, version));
        version
    }

    /// What the source has now, whatever its mood.
    pub(crate) fn version(&self, key: usize) -> u64 {
        self.state().versions[key].last().unwrap().1
    }

    pub(crate) fn be_in(&self, mood: Mood, lasting: Duration) {
        let until = self.books.lock().now() + lasting;
        self.state().moods.push((mood, until));
    }

    /// How long what is inserted may live.
    pub(crate) fn life(&self) -> Duration {
        self.setup.time_to_live
    }

    pub(crate) fn calm_down(&self) {
        self.state().moods.clear();
    }

    fn is(&self, mood: Mood) -> bool {
        let now = self.books.lock().now();
        self.state().moods.iter().any(|(is, until)| *is == mood && *until > now)
    }

    /// The moment whose truth is told now.
    fn read_at(&self, now: Duration) -> Duration {
        let lag = |(mood, until): &(Mood, Duration)| match mood {
            Mood::Lagging(lag) if *until > now => Some(*lag),
            _ => None,
        };
        now.saturating_sub(self.state().moods.iter().filter_map(lag).max().unwrap_or_default())
    }

    fn version_at(&self, key: usize, at: Duration) -> u64 {
        let state = self.state();
        let versions = &state.versions[key];
        versions.iter().rev().find(|(since, _)| *since <= at).unwrap_or(&versions[0]).1
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// Loads that are under way, until they have ended or are dropped.
struct Running {
    books: Shared,
    numbers: Vec<usize>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut books = self.books.lock();
        self.numbers.iter().for_each(|number| books.load_ends(*number));
    }
}

/// The number of the node of this name.
pub(crate) fn number_of(node: &str) -> usize {
    node.trim_start_matches("node-").trim_end_matches(":1").parse::<usize>().unwrap() - 1
}

/// The name of a key.
pub(crate) fn name(key: impl Display) -> String {
    format!("k{key}")
}

/// The names of a key's tags.
pub(crate) fn tag_names(key: usize) -> Vec<String> {
    tags_of(key).map(tag_name).collect()
}

pub(crate) fn tag_name(tag: usize) -> String {
    format!("t{tag}")
}

fn index(key: &Key) -> usize {
    key.as_str().and_then(|name| name.strip_prefix('k')).and_then(|number| number.parse().ok()).unwrap()
}
