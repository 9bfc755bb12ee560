//! Anything at all on an exchange, by a seed: questions and calls of any size, slow and quick, given up or not, on
//! connections that are let go or break. Each has exactly one outcome, values are whole, and nothing is left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use futures::future::FutureExt as _;
use tokio::task::{JoinHandle, JoinSet};

use super::askers::{Outcomes, ask, value_of};
use super::handlers::{fitting_reply, handling};
use super::messages::{failed_answer, insert, is_pattern, pattern, remove, value_answer};
use super::net::{Net, Node, soon};
use crate::clock::sleep;
use crate::error::{Error, LoadError};
use crate::key::Key;
use crate::message::{Answer, Ask, Outcome, Refusal, RefusalKind, Reply, Scope};
use crate::transport::{CallError, Connection};

/// What a key asks for: it says all that its answer is made of.
#[derive(Clone, Copy, Debug)]
struct Wish {
    len: usize,
    /// How long it takes; 0 is at once.
    millis: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Value,
    Nothing,
    Failure,
    Refusal,
    /// It is never answered, unless it is given up.
    Never,
}

impl Wish {
    fn any(rng: &mut Rng) -> Self {
        let len = match rng.u32(0..100) {
            0..60 => rng.usize(0..100),
            60..85 => rng.usize(0..20_000),
            85..97 => (64 << 10) - 2 + rng.usize(0..5),
            97..99 => rng.usize(65_000..300_000),
            _ => rng.usize(300_000..3_000_000),
        };
        let kind = match rng.u32(0..100) {
            0..80 => Kind::Value,
            80..88 => Kind::Nothing,
            88..94 => Kind::Failure,
            _ => Kind::Refusal,
        };
        Self { len, millis: if rng.u32(0..3) == 0 { rng.u64(1..30) } else { 0 }, kind }
    }

    fn key(self) -> Key {
        Key::new(&format!("{} {} {}", self.len, self.millis, self.kind as u8))
    }

    fn of(key: &Key) -> Self {
        let mut parts =
            key.as_str().expect("written above").split(' ').map(|part| part.parse::<u64>().expect("a number"));
        let mut next = || parts.next().expect("three numbers");
        let (len, millis) = (usize::try_from(next()).expect("a length"), next());
        let kinds = [Kind::Value, Kind::Nothing, Kind::Failure, Kind::Refusal, Kind::Never];
        let kind = next();
        Self { len, millis, kind: *kinds.iter().find(|known| **known as u64 == kind).expect("a kind") }
    }

    fn answer(self) -> Result<Answer, Refusal> {
        match self.kind {
            Kind::Value => Ok(value_answer(pattern(self.len), None)),
            Kind::Nothing => Ok(Answer { outcome: Outcome::NotFound, held: Duration::ZERO }),
            Kind::Failure => Ok(failed_answer(Error::Load(LoadError::new("x".repeat(self.len % 4000))))),
            Kind::Refusal => Err(Refusal::new(RefusalKind::Schema, "x".repeat(self.len % 1000))),
            Kind::Never => unreachable!("nobody answers it"),
        }
    }

    /// Whether this is what was wished for.
    fn check(self, outcome: Result<Answer, CallError>) -> bool {
        match (self.kind, outcome) {
            (Kind::Value, Ok(answer)) => value_of(answer) == pattern(self.len),
            (Kind::Nothing, Ok(answer)) => matches!(answer.outcome, Outcome::NotFound),
            (Kind::Failure, Ok(Answer { outcome: Outcome::Failed(Error::Load(error)), .. })) => {
                error.message().len() == self.len % 4000
            }
            (Kind::Refusal, Err(CallError::Refused(refusal))) => {
                refusal.kind == RefusalKind::Schema && refusal.message.len() == self.len % 1000
            }
            _ => false,
        }
    }
}

/// A handler's future: counted while it is there.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn node(alive: &Arc<AtomicUsize>) -> Node {
    let alive = Arc::clone(alive);
    let net = Net::grpc();
    let node = net.serve(handling(move |request| {
        let counted = Alive::new(&alive);
        async move {
            let _counted = counted;
            match request.ask {
                Ask::Get(get) => {
                    let wish = Wish::of(&get.key);
                    if wish.kind == Kind::Never {
                        std::future::pending::<()>().await;
                    }
                    if wish.millis > 0 {
                        sleep(Duration::from_millis(wish.millis)).await;
                    }
                    wish.answer().map(Reply::Get)
                }
                Ask::Insert(insert) => Ok(Reply::Insert { stored: is_pattern(insert.value.as_ref()), ack: None }),
                ask => Ok(fitting_reply(&ask)),
            }
        }
        .boxed()
    }));
    node.await
}

/// One ask of a run.
struct Asked {
    wishes: Vec<Wish>,
    outcomes: Outcomes,
    is_given_up: bool,
}

struct Run {
    seed: u64,
    rng: Rng,
    connection: Arc<dyn Connection>,
    asked: Vec<Asked>,
    /// Calls that are waited for to their end: whether what came of them is right.
    calls: JoinSet<Result<Reply, CallError>>,
    dropped: Vec<JoinHandle<()>>,
}

impl Run {
    async fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..40 => self.ask(),
            40..50 => self.give_up(),
            50..62 => self.call(),
            62..70 => self.call_and_leave(),
            70..90 => tokio::task::yield_now().await,
            _ => sleep(Duration::from_millis(self.rng.u64(0..4))).await,
        }
    }

    fn ask(&mut self) {
        let mut wishes: Vec<_> = (0..self.rng.usize(1..60)).map(|_| Wish::any(&mut self.rng)).collect();
        let is_given_up = self.rng.u32(0..5) == 0;
        if is_given_up {
            // What is given up may be what would never be answered.
            for wish in wishes.iter_mut().step_by(3) {
                wish.kind = Kind::Never;
            }
        }
        let outcomes = ask(&self.connection, wishes.iter().map(|wish| wish.key()));
        let asked = Asked { wishes, outcomes, is_given_up };
        if is_given_up && self.rng.bool() {
            asked.outcomes.give_up();
        }
        self.asked.push(asked);
    }

    fn give_up(&mut self) {
        let given_up: Vec<_> = self.asked.iter().filter(|asked| asked.is_given_up).collect();
        if let Some(asked) = self.rng.choice(given_up) {
            asked.outcomes.give_up();
        }
    }

    fn request(&mut self) -> crate::message::Request {
        if self.rng.bool() {
            return remove(Scope::Keys((0..self.rng.u32(0..2000)).map(|key| Key::new(&key.to_string())).collect()));
        }
        let len = if self.rng.bool() { self.rng.usize(0..70_000) } else { self.rng.usize(0..2_000_000) };
        insert(pattern(len))
    }

    fn call(&mut self) {
        let request = self.request();
        self.calls.spawn(self.connection.call(request));
    }

    fn call_and_leave(&mut self) {
        let request = self.request();
        let (call, polls) = (self.connection.call(request), self.rng.u32(0..20));
        self.dropped.push(tokio::spawn(async move {
            let leave = async {
                for _ in 0..polls {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! { _ = call => {}, () = leave => {} }
        }));
    }

    /// Everything has its outcome, and the right one.
    async fn check(mut self, is_broken: bool) {
        let seed = self.seed;
        for asked in &self.asked {
            if asked.is_given_up {
                asked.outcomes.give_up();
            }
        }
        let is_lost =
            |outcome: &Result<Answer, CallError>| matches!(outcome, Err(CallError::Unreachable(_))) && is_broken;
        for Asked { wishes, outcomes, is_given_up } in self.asked.drain(..) {
            for (wish, outcome) in wishes.into_iter().zip(outcomes.all().await) {
                let outcome = outcome.unwrap_or_else(|| panic!("seed {seed}: {wish:?} was dropped"));
                let may_be = (is_given_up && matches!(outcome, Err(CallError::GivenUp))) || is_lost(&outcome);
                assert!(may_be || wish.check(outcome), "seed {seed}: {wish:?} was answered by something else");
            }
        }
        while let Some(outcome) = soon(self.calls.join_next()).await {
            let outcome = outcome.expect("no panic");
            let is_right = matches!(outcome, Ok(Reply::Remove(_) | Reply::Insert { stored: true, .. }));
            let is_lost = matches!(outcome, Err(CallError::Unreachable(_))) && is_broken;
            assert!(is_right || is_lost, "seed {seed}: {outcome:?}");
        }
        for dropped in self.dropped.drain(..) {
            soon(dropped).await.expect("no panic");
        }
    }
}

async fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let (alive, is_broken) = (Arc::new(AtomicUsize::new(0)), seed % 3 == 2);
    let node = node(&alive).await;
    let opened = node.open().await;
    let driver = tokio::spawn(opened.driver);
    let steps = rng.usize(20..200);
    let breaks_at = if is_broken { rng.usize(0..steps) } else { steps };
    let (asked, calls, dropped) = (Vec::new(), JoinSet::new(), Vec::new());
    let mut run = Run { seed, rng, connection: opened.connection, asked, calls, dropped };
    for step in 0..steps {
        if step == breaks_at {
            node.reset();
        }
        run.step().await;
    }
    run.check(is_broken).await;
    // Nobody holds the connection any more: so the driver ends once every id has been given back, and not before.
    soon(driver).await.expect("no panic");
    let served = async {
        while alive.load(Ordering::SeqCst) > 0 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), served)
        .await
        .unwrap_or_else(|_| panic!("seed {seed}: {} requests were left behind", alive.load(Ordering::SeqCst)));
    node.stop().await;
}

const SEEDS: std::ops::Range<u64> = 0..24;

#[tokio::test]
async fn on_one_thread_whatever_happens_each_has_one_outcome_and_nothing_is_left() {
    for seed in SEEDS {
        run(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn on_many_threads_whatever_happens_each_has_one_outcome_and_nothing_is_left() {
    for seed in SEEDS {
        run(100 + seed).await;
    }
}
