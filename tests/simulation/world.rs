//! Plays a plan in a cluster: starts each event at its time, lets it run as long as it will, and judges what comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerage::simulation::{Cluster, Dice, Fault};
use peerage::{Error, GetOptions, Group, Loaded, Receipt, Told};
use tokio::task::JoinHandle;

use super::Outcome;
use super::books::{Load, Shared, Stamp};
use super::judge::{self, Asked, Promise};
use super::plan::{END, Event, How, Plan, Timed, tags_of};
use super::planted::Planted;
use super::source::{Source, name, number_of, tag_name, tag_names};

pub(crate) const TIMEOUT: Duration = Duration::from_millis(1_500);
pub(crate) const LOAD_TIMEOUT: Duration = Duration::from_millis(600);
pub(crate) const QUEUE_TIMEOUT: Duration = Duration::from_millis(400);
pub(crate) const REMOVAL_TIMEOUT: Duration = Duration::from_millis(300);
pub(crate) const NOT_FOUND_LIFE: Duration = Duration::from_millis(800);

/// After so many events the bytes are looked at: a look costs more than most events do.
const BYTES_EVERY: usize = 8;
/// How long a healed cluster may take to be whole, and then to drain.
const HEALS_WITHIN: Duration = Duration::from_secs(15);
/// How long a receipt is waited for that says that nodes are pending.
pub(crate) const SETTLES_WITHIN: Duration = Duration::from_secs(4);
const DRAINS_WITHIN: Duration = Duration::from_secs(5);
/// How long nodes that are whole, and idle, may keep anything for removals: two of the hellos by which they tell one
/// another what they have applied.
const FORGETS_WITHIN: Duration = Duration::from_secs(2);

/// A run: what a caller needs of it. Clones are the same.
#[derive(Clone)]
struct World {
    cluster: Cluster<Group<String>>,
    source: Source,
    books: Shared,
    planted: Option<Planted>,
    keys: usize,
    /// What [`Planted::IgnoresRemovals`] remembers.
    remembered: Arc<Mutex<BTreeMap<(usize, usize), String>>>,
}

/// Plays a plan from its first event to the last, heals the cluster, and ends it.
pub(crate) async fn play(plan: &Plan, planted: Option<Planted>, keeps_story: bool) -> Outcome {
    let books = Shared::open(keeps_story);
    books.lock().grace = plan.setup.grace;
    let source = Source::new(plan, planted, books.clone());
    let builder = source.clone();
    let cluster = Cluster::start(plan.setup.nodes, move |node| builder.group(node)).await.unwrap();
    let world = World { cluster, source, books, planted, keys: plan.setup.keys, remembered: Arc::default() };
    world.slow_down(plan);
    let mut callers = Vec::new();
    for (number, Timed { at, event }) in plan.events.iter().enumerate() {
        let now = world.books.lock().now();
        tokio::time::sleep(at.saturating_sub(now)).await;
        callers.extend(world.start(event));
        if number % BYTES_EVERY == 0 {
            world.judge_bytes(plan.setup.capacity);
        }
        world.books.lock().coverage.events += 1;
    }
    world.judge_the_end(plan, callers).await;
    let mut books = world.books.lock();
    for (from, to) in (1..=plan.setup.nodes).flat_map(|from| (1..=plan.setup.nodes).map(move |to| (from, to))) {
        let sent = world.cluster.network().messages(&format!("node-{from}:1"), &format!("node-{to}:1"));
        books.note(format_args!("{from} has sent {to} {sent:?}"));
    }
    books.coverage.finish();
    Outcome {
        hash: books.trace.hash(),
        violations: std::mem::take(&mut books.violations),
        coverage: books.coverage.clone(),
        story: books.trace.kept().to_vec(),
    }
}

type Caller = JoinHandle<Option<()>>;

impl World {
    /// Gives each link its latency, for as long as there are events. It is no bad weather.
    fn slow_down(&self, plan: &Plan) {
        let (most, mut dice) = (plan.setup.latency, Dice::new(plan.seed));
        for a in (0..plan.setup.nodes).filter(|_| most > 0) {
            for b in 0..a {
                let delay = Duration::from_millis(dice.between(0, most));
                self.cluster.inject(Fault::Delay { a, b, delay }, Duration::from_millis(END));
            }
        }
    }

    fn start(&self, event: &Event) -> Option<Caller> {
        self.books.lock().note(format_args!("{event}"));
        match event.clone() {
            Event::Get { node, key, how } => self.call(node, async move |world, group| {
                world.get(&group, node, key, how).await;
            }),
            Event::GetMany { node, keys } => self.call(node, async move |world, group| {
                world.get_many(&group, node, keys).await;
            }),
            Event::Remove { node, keys } => self.call(node, async move |world, group| {
                for key in &keys {
                    world.source.change(*key);
                }
                world.remove(&group, node, Some(keys)).await;
            }),
            Event::RemoveTag { node, tag } => self.call(node, async move |world, group| {
                world.remove_tag(&group, node, tag).await;
            }),
            Event::Clear { node } => self.call(node, async move |world, group| {
                world.remove(&group, node, None).await;
            }),
            Event::Insert { node, key } => self.call(node, async move |world, group| {
                world.insert(&group, node, key).await;
            }),
            Event::Change { key } => {
                self.source.change(key);
                None
            }
            Event::Mood(mood, lasting) => {
                self.source.be_in(mood, lasting);
                None
            }
            Event::Fault(fault, lasting) => {
                let mut books = self.books.lock();
                let now = books.now();
                books.weather.push((fault.clone(), now, now + lasting));
                drop(books);
                self.cluster.inject(fault, lasting);
                None
            }
        }
    }

    /// A caller on a node.
    fn call<F>(&self, node: usize, call: impl FnOnce(Self, Group<String>) -> F) -> Option<Caller>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let world = self.clone();
        self.cluster.on(node, |group| call(world, group))
    }

    async fn get(&self, group: &Group<String>, node: usize, key: usize, how: How) {
        let mut asked = self.ask(node, key);
        let options = self.options(&mut asked, how);
        let (key, limit) = (name(key), if let How::With(limit) = how { limit } else { TIMEOUT });
        self.be_late_or_lost(asked.started).await;
        let answer = match how {
            How::Get => group.get(&key).await.map(Some),
            How::Opt => group.get_opt(&key).await,
            How::Peek => return self.peeked(asked, group.peek(&key)),
            How::With(_) | How::Token | How::MaxAge(_) | How::Fresh => match group.get_with(&key, options).await {
                Ok(entry) => {
                    let mut books = self.books.lock();
                    books.judge_entry(asked, entry.value(), entry.age(), entry.time_left());
                    Ok(Some(entry.into_value()))
                }
                Err(error) => Err(error),
            },
        };
        self.books.lock().judge_limit(node, asked.started, limit, "a get");
        self.answered(asked, answer);
    }

    /// What a get asks for beside the key.
    fn options(&self, asked: &mut Asked, how: How) -> GetOptions {
        let options = GetOptions::new();
        match how {
            How::With(limit) => options.timeout(limit),
            How::MaxAge(age) => {
                asked.max_age = Some(age);
                options.max_age(age)
            }
            How::Fresh => options.fresh(),
            How::Token => {
                let mut books = self.books.lock();
                let Some((number, token)) = books.tokens.get(&asked.key).cloned() else { return options };
                books.coverage.gets_with_token += 1;
                books.token_gets.push((asked.key, asked.started));
                asked.after = Some(number);
                options.no_older_than(token)
            }
            How::Get | How::Opt | How::Peek => options,
        }
    }

    async fn get_many(&self, group: &Group<String>, node: usize, keys: Vec<usize>) {
        let asked: Vec<_> = keys.iter().map(|key| self.ask(node, *key)).collect();
        let answers = group.get_many(keys.iter().map(name)).await;
        self.books.lock().judge_limit(node, asked[0].started, TIMEOUT, "a get_many");
        for (asked, answer) in asked.into_iter().zip(answers) {
            self.answered(asked, answer.map(Some));
        }
    }

    async fn remove(&self, group: &Group<String>, node: usize, keys: Option<Vec<usize>>) {
        let removing = Removing::begin(self, node, keys.clone());
        let receipt = match keys.as_deref() {
            None => group.clear().await,
            Some([key]) => group.remove(&name(key)).await,
            Some(keys) => group.remove_many(keys.iter().map(name)).await,
        };
        self.books.lock().judge_limit(node, removing.began, REMOVAL_TIMEOUT, "a removal");
        removing.end(receipt).await;
    }

    async fn remove_tag(&self, group: &Group<String>, node: usize, tag: usize) {
        let bearing: Vec<usize> = (0..self.keys).filter(|key| tags_of(*key).any(|it| it == tag)).collect();
        for key in &bearing {
            self.source.change(*key);
        }
        let removing = Removing::begin(self, node, Some(bearing));
        {
            let mut books = self.books.lock();
            books.removals[removing.number].is_of_tag = true;
            books.coverage.removals_of_tags += 1;
        }
        let receipt = group.remove_tag(&tag_name(tag)).await;
        self.books.lock().judge_limit(node, removing.began, REMOVAL_TIMEOUT, "a removal of a tag");
        removing.end(receipt).await;
    }

    async fn insert(&self, group: &Group<String>, node: usize, key: usize) {
        let version = self.source.change(key);
        let (life, run, is_insert, is_found) = (self.source.life(), 0, true, true);
        let number = {
            let mut books = self.books.lock();
            let (began, ended) = (None, None);
            books.loads.push(Load { key, node, run, is_insert, began, ended, life, is_found, version });
            books.loads.len() - 1
        };
        let mut removing = Removing::begin(self, node, Some(vec![key]));
        removing.inserts = Some(number);
        let value = Loaded::value(judge::write(key, number, 0)).tags(tag_names(key));
        let receipt = group.insert_with(&name(key), value).await;
        self.books.lock().judge_limit(node, removing.began, REMOVAL_TIMEOUT, "an insert");
        removing.end(receipt).await;
    }

    fn ask(&self, node: usize, key: usize) -> Asked {
        Asked { node, key, started: self.books.lock().stamp(), after: None, max_age: None }
    }

    fn answered(&self, asked: Asked, answer: Result<Option<String>, Error>) {
        let answer = self.as_remembered(asked, answer);
        let mut books = self.books.lock();
        books.coverage.gets_checked += 1;
        let Asked { node, key, .. } = asked;
        match answer {
            Ok(Some(value)) => {
                books.note(format_args!("{node}: k{key} is {}", &value[..value.len().min(10)]));
                books.judge_value(asked, &value);
            }
            Ok(None) | Err(Error::NotFound) => {
                books.note(format_args!("{node}: there is no k{key}"));
                books.judge_none(asked);
            }
            Err(error) => {
                books.note(format_args!("{node}: k{key} failed: {error}"));
                books.judge_error(asked, &error);
            }
        }
    }

    fn peeked(&self, asked: Asked, value: Option<String>) {
        let mut books = self.books.lock();
        books.coverage.gets_checked += 1;
        books.note(format_args!("{}: a peek for k{} finds {}", asked.node, asked.key, value.is_some()));
        if let Some(value) = value {
            books.judge_value(asked, &value);
        }
    }

    /// What a planted bug makes of an answer.
    fn as_remembered(&self, asked: Asked, answer: Result<Option<String>, Error>) -> Result<Option<String>, Error> {
        if self.planted != Some(Planted::IgnoresRemovals) {
            return answer;
        }
        let mut remembered = self.remembered.lock().unwrap();
        let place = (asked.node, asked.key);
        if let Ok(Some(value)) = &answer {
            remembered.entry(place).or_insert_with(|| value.clone());
        }
        remembered.get(&place).cloned().map_or(answer, |value| Ok(Some(value)))
    }

    /// What other planted bugs make of a wait.
    async fn be_late_or_lost(&self, started: Stamp) {
        let mut dice = Dice::new(started.order);
        match self.planted {
            Some(Planted::AnswersLate) if dice.chance(0.02) => tokio::time::sleep(2 * TIMEOUT).await,
            Some(Planted::NeverAnswers) if dice.chance(0.02) => std::future::pending().await,
            _ => {}
        }
    }

    fn judge_bytes(&self, capacity: usize) {
        for node in 0..self.cluster.len() {
            let Some(group) = self.cluster.service(node) else { continue };
            let usage = group.stats().cache;
            let bytes = usage.main_bytes + usage.hot_bytes + usage.encoded_bytes;
            if bytes > capacity as u64 {
                let what = format!("{node} holds {bytes} of {capacity} bytes");
                self.books.lock().violated(Promise::Bytes, what);
            }
        }
    }

    /// All faults are over.
    async fn judge_the_end(&self, plan: &Plan, callers: Vec<Caller>) {
        self.source.calm_down();
        if let Err(why) = self.cluster.heal(HEALS_WITHIN).await {
            return self.books.lock().violated(Promise::Healing, why);
        }
        let is_drained = |cluster: &Cluster<Group<String>>| {
            callers.iter().all(JoinHandle::is_finished)
                && (0..cluster.len()).filter_map(|node| cluster.service(node)).all(|group| {
                    let stats = group.stats();
                    stats.flights + stats.loads_running + stats.loads_queued == 0
                })
        };
        if !self.cluster.until(DRAINS_WITHIN, is_drained).await {
            let stats: Vec<_> =
                (0..self.cluster.len()).map(|node| self.cluster.service(node).unwrap().stats()).collect();
            let waiting = callers.iter().filter(|caller| !caller.is_finished()).count();
            let what = format!("{waiting} callers wait, and the nodes are not idle: {stats:?}");
            return self.books.lock().violated(Promise::Healing, what);
        }
        self.judge_drained("healed").await;
        self.read_all(plan).await;
        self.judge_agreement(plan).await;
        self.judge_drained("cleared").await;
        self.judge_shutdown().await;
    }

    /// Nodes that are whole let go of all that they keep for removals. (With the last tombstone goes the last record of
    /// the log that is not complete: each of those was given a tombstone before it got there.)
    async fn judge_drained(&self, when: &str) {
        let tombstones = |cluster: &Cluster<Group<String>>| -> Vec<u64> {
            (0..cluster.len()).map(|node| cluster.node(node).map_or(0, |node| node.stats().tombstones)).collect()
        };
        let is_drained = |cluster: &Cluster<Group<String>>| tombstones(cluster).iter().all(|count| *count == 0);
        if !self.cluster.until(FORGETS_WITHIN, is_drained).await {
            let left = tombstones(&self.cluster);
            let what = format!("once {when}, the nodes keep {left:?} tombstones after {FORGETS_WITHIN:?}");
            self.books.lock().violated(Promise::Drained, what);
        }
    }

    async fn read_all(&self, plan: &Plan) {
        for (node, key) in plan.setup.places() {
            let group = self.cluster.service(node).unwrap();
            self.get(&group, node, key, How::Get).await;
        }
    }

    /// After one more removal of all, every node has what the source has.
    async fn judge_agreement(&self, plan: &Plan) {
        let group = self.cluster.service(0).unwrap();
        self.remove(&group, 0, None).await;
        if !self.books.lock().removals.last().unwrap().is_everywhere {
            self.books.lock().violated(Promise::Healing, String::from("the last removal was not everywhere"));
        }
        for (node, key) in plan.setup.places() {
            let group = self.cluster.service(node).unwrap();
            let mut answer = group.get_opt(&name(key)).await;
            // The load may have waited too long for its turn, behind refreshes that are still under way: once.
            if matches!(answer, Err(Error::Busy)) {
                answer = group.get_opt(&name(key)).await;
            }
            let mut books = self.books.lock();
            let number = answer.as_ref().ok().and_then(|value| judge::number(value.as_deref()?));
            let version = number.map(|number| books.loads[number].version);
            let is = Some(self.source.version(key)).filter(|version| !version.is_multiple_of(5));
            if version != is && self.planted.is_none() {
                let what = format!("the source has version {is:?} of k{key}, {node} says {answer:?}, {version:?}");
                books.violated(Promise::Healing, what);
            }
        }
    }

    async fn judge_shutdown(&self) {
        let reports = self.cluster.shutdown(Duration::from_secs(1)).await;
        let connections = self.cluster.network().connections();
        if !reports.iter().all(peerage::ShutdownReport::is_clean) || !connections.is_empty() {
            let what = format!("idle nodes were shut down: {reports:?}, open: {connections:?}");
            self.books.lock().violated(Promise::Healing, what);
        }
        // What is left are faults that were ended before their time.
        let is_over = |_: &Cluster<_>| tokio::runtime::Handle::current().metrics().num_alive_tasks() == 0;
        let longest = Duration::from_millis(END) + DRAINS_WITHIN;
        if !self.cluster.until(longest, is_over).await {
            let left = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            self.books.lock().violated(Promise::Healing, format!("{left} tasks are left"));
        }
    }

    /// Nodes that are no part of everybody, as the remover can know it: whom neither it lists, nor those that it lists,
    /// and so on, and who has no stream with one of these. That there is one is certain only while nothing has been in
    /// its way for a while.
    fn beyond(&self, remover: usize) -> Vec<usize> {
        let lists: Vec<_> = (0..self.cluster.len()).map(|node| self.cluster.list_of(node)).collect();
        let lists = |one: usize, other: usize| lists[one].as_ref().is_some_and(|list| list.contains(&other));
        let has_streams = self.cluster.faults().is_empty() && self.books.lock().was_calm_for(RECONNECTS_WITHIN);
        let mut everybody = vec![remover];
        let mut at = 0;
        while let Some(&one) = everybody.get(at) {
            let counts = |other: &usize| lists(one, *other) || (has_streams && lists(*other, one));
            let more: Vec<_> = (0..self.cluster.len()).filter(counts).filter(|it| !everybody.contains(it)).collect();
            everybody.extend(more);
            at += 1;
        }
        (0..self.cluster.len()).filter(|node| !everybody.contains(node)).collect()
    }
}

/// So long after the last fault, who lists a node has a stream with it.
const RECONNECTS_WITHIN: Duration = Duration::from_secs(4);

/// A removal that is under way. If its caller goes down with its process, it has ended somewhere.
struct Removing {
    world: World,
    number: usize,
    began: Stamp,
    beyond: Vec<usize>,
    /// The value that it brings.
    inserts: Option<usize>,
    is_everywhere: bool,
}

impl Removing {
    fn begin(world: &World, node: usize, keys: Option<Vec<usize>>) -> Self {
        let beyond = world.beyond(node);
        let mut books = world.books.lock();
        let number = books.removal_begins(node, keys);
        let began = books.removals[number].began;
        drop(books);
        Self { world: world.clone(), number, began, beyond, inserts: None, is_everywhere: false }
    }

    /// Its receipt is there. If a node is pending it may resolve later.
    async fn end(mut self, receipt: Result<Receipt, Error>) {
        let Ok(receipt) = receipt else { return };
        let (world, number) = (self.world.clone(), self.number);
        world.books.lock().removal_has_token(number, world.keys, &receipt.token());
        self.is_everywhere = receipt.is_everywhere();
        let done = receipt.nodes().filter(|(_, told)| **told == Told::Done).map(|(node, _)| number_of(node.as_str()));
        world.books.lock().removal_returns(number, done.collect());
        drop(self);
        if !receipt.is_everywhere() && receipt.settled(SETTLES_WITHIN).await.is_everywhere() {
            let node = world.books.lock().removals[number].node;
            let beyond = world.beyond(node);
            world.books.lock().removal_settles(number, beyond);
        }
    }
}

impl Drop for Removing {
    fn drop(&mut self) {
        let remover = self.world.books.lock().removals[self.number].node;
        let mut beyond = self.world.beyond(remover);
        beyond.append(&mut self.beyond);
        let mut books = self.world.books.lock();
        books.removals[self.number].beyond = beyond;
        books.removal_ends(self.number, self.is_everywhere);
        if let Some(insert) = self.inserts {
            let ended = books.stamp();
            let load = &mut books.loads[insert];
            (load.began, load.ended) = (Some(ended), Some(ended));
        }
    }
}
