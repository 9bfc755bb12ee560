//! When the body of an exchange is woken, and what is in its frames then: without a runtime, by hand.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use futures::StreamExt;

use super::*;
use crate::key::Key;
use crate::member::NodeName;
use crate::message::{After, Answer, Incarnation, Outcome, Versions};

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Woken {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

struct Anybody;

impl Asker for Anybody {
    fn patience(&self) -> Option<Duration> {
        Some(Duration::MAX)
    }

    fn take(self: Box<Self>, answer: Result<Answer, CallError>) {
        answer.expect("it was answered");
    }
}

/// A line, and its body, which has nothing to send.
struct Idle {
    line: Arc<Line>,
    frames: Frames,
    sender: Arc<Sender>,
    body: Arc<Woken>,
}

impl Idle {
    fn new() -> Self {
        let line = Arc::new(Line::new(Signs::default()));
        let (cluster, name) = (Arc::from("test"), NodeName::from("a"));
        let sender = Arc::new(Sender { cluster, name, incarnation: Incarnation(1), versions: Versions::SPOKEN });
        let mut idle = Self { frames: Frames(Arc::clone(&line)), line, sender, body: Arc::default() };
        assert!(idle.frame().is_none());
        idle
    }

    fn ask(&self, keys: &[&str]) {
        let terms =
            GetTerms { group: Arc::from("g"), schema: 0, time_limit: Duration::MAX, nested: false, max_age: None };
        let question = |key: &&str| Question { key: Key::new(*key), after: After::default(), asker: Box::new(Anybody) };
        self.line.ask(&self.sender, terms, &mut keys.iter().map(question));
    }

    /// What the body sends when it is polled: the keys that are asked for.
    fn frame(&mut self) -> Option<Vec<String>> {
        let waker = Waker::from(Arc::clone(&self.body));
        let Poll::Ready(frame) = self.frames.poll_next_unpin(&mut Context::from_waker(&waker)) else { return None };
        let key = |part: &Part<AskItem>| match part {
            Part::Message(AskItem::Get { key, .. }) => key.as_str().map(String::from),
            _ => None,
        };
        Some(frame.expect("the line is not over").iter().filter_map(key).collect())
    }

    /// Sends all there is, in frames.
    fn send(&mut self) {
        while self.frame().is_some() || self.line.state().batch.is_ready() {}
    }

    /// A frame of answers comes to questions with these ids.
    fn answer(&self, ids: &[u64]) {
        let reply = || Ok(Reply::Get(Answer { outcome: Outcome::NotFound, held: Duration::ZERO }));
        let responses = ids.iter().map(|&id| Response { id, reply: reply(), sliced: 0 }).collect();
        let frame = AnswerFrame { responses, ..AnswerFrame::default() };
        assert!(matches!(self.line.take(frame, &mut Assembly::default(), usize::MAX), Ok(false)));
    }
}

#[test]
fn who_has_had_answers_together_asks_together() {
    let mut idle = Idle::new();
    idle.ask(&["1", "2", "3"]);
    idle.send();
    let before = idle.body.count();
    idle.answer(&[0, 1, 2]);
    // The first of them, on another thread; the body has nothing to do, and would send it alone.
    idle.ask(&["first"]);
    assert_eq!(idle.body.count(), before, "the others have not had their turn");
    let line = Arc::clone(&idle.line);
    let (driver, mut let_ask) = (Arc::<Woken>::default(), pin!(line.let_ask()));
    let waker = Waker::from(Arc::clone(&driver));
    assert!(let_ask.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    idle.ask(&["second"]);
    idle.ask(&["third"]);
    assert_eq!((idle.body.count(), driver.count()), (before, 1), "and now they have");
    assert!(let_ask.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    assert_eq!(idle.body.count(), before + 1);
    assert_eq!(idle.frame().expect("the runtime has gone round"), ["first", "second", "third"]);
    // And from here on it is as ever.
    assert!(idle.frame().is_none());
    idle.ask(&["another"]);
    assert_eq!(idle.body.count(), before + 2);
}

#[test]
fn who_has_had_an_answer_alone_waits_for_nobody() {
    let mut idle = Idle::new();
    idle.ask(&["1"]);
    idle.send();
    let before = idle.body.count();
    idle.answer(&[0]);
    idle.ask(&["again"]);
    assert_eq!(idle.body.count(), before + 1);
    let line = Arc::clone(&idle.line);
    let waker = Waker::from(Arc::<Woken>::default());
    assert!(pin!(line.let_ask()).poll(&mut Context::from_waker(&waker)).is_ready());
    assert!(idle.frame().is_none(), "the runtime goes round first: others may be about to ask");
    assert_eq!(idle.frame().expect("it has"), ["again"]);
}

#[test]
fn the_end_is_told_though_answers_are_being_handed_out() {
    let mut idle = Idle::new();
    idle.ask(&["1", "2"]);
    idle.send();
    let before = idle.body.count();
    idle.answer(&[0, 1]);
    drop(idle.line.end(closed()));
    assert_eq!(idle.body.count(), before + 1, "the line is over");
}
