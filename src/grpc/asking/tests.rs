//! When the body of an exchange is woken, and what is in its frames then: without a runtime, by hand.

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

/// Somebody who waits for an answer, and is woken by it.
struct Anybody(Arc<Woken>);

impl Asker for Anybody {
    fn patience(&self) -> Option<Duration> {
        Some(Duration::MAX)
    }

    fn take(self: Box<Self>, answer: Result<&mut Answer, CallError>, wakes: &mut Wakes) {
        answer.expect("it was answered");
        wakes.add(Waker::from(self.0));
    }
}

/// A line, and its body, which has nothing to send.
struct Idle {
    line: Arc<Line>,
    frames: Frames,
    sender: Arc<Sender>,
    body: Arc<Woken>,
    asking: Arc<Woken>,
}

impl Idle {
    fn new() -> Self {
        let line = Arc::new(Line::new(Signs::default()));
        let (cluster, name) = (Arc::from("test"), NodeName::from("a"));
        let sender = Arc::new(Sender { cluster, name, incarnation: Incarnation(1), versions: Versions::SPOKEN });
        let mut idle =
            Self { frames: Frames(Arc::clone(&line)), line, sender, body: Arc::default(), asking: Arc::default() };
        assert!(idle.frame().is_none());
        idle
    }

    fn ask(&self, keys: &[&str]) {
        let terms =
            GetTerms { group: Arc::from("g"), schema: 0, time_limit: Duration::MAX, nested: false, max_age: None };
        let question = |key: &&str| {
            let asker = Box::new(Anybody(Arc::clone(&self.asking)));
            Question { key: Key::new(*key), after: After::default(), asker }
        };
        self.line.ask(&self.sender, terms, &mut keys.iter().map(question));
    }

    /// What the body sends when it is polled.
    fn parts(&mut self) -> Option<Vec<Part<AskItem>>> {
        let waker = Waker::from(Arc::clone(&self.body));
        let Poll::Ready(frame) = self.frames.poll_next_unpin(&mut Context::from_waker(&waker)) else { return None };
        Some(frame.expect("the line is not over"))
    }

    /// The keys that it asks for then.
    fn frame(&mut self) -> Option<Vec<String>> {
        let key = |part: &Part<AskItem>| match part {
            Part::Message(AskItem::Get { key, .. }) => key.as_str().map(String::from),
            _ => None,
        };
        Some(self.parts()?.iter().filter_map(key).collect())
    }

    /// Asks for so many keys, and gives how many are under way as the frame says.
    fn said(&mut self, count: usize) -> u64 {
        self.ask(&vec!["key"; count]);
        let frame = self.parts().or_else(|| self.parts()).expect("it has had its turn");
        let said = frame.iter().find_map(|part| match part {
            Part::Message(AskItem::UnderWay(count)) => Some(*count),
            _ => None,
        });
        said.expect("each frame says it")
    }

    /// Sends all there is, in frames.
    fn send(&mut self) {
        while self.frame().is_some() || self.line.state().batch.is_ready() {}
    }

    /// A frame of answers comes to questions with these ids. Gives whom that wakes.
    fn answer(&self, ids: &[u64]) -> Wakes {
        let reply = || Ok(Reply::Get(Answer { outcome: Outcome::NotFound, held: Duration::ZERO }));
        let responses = ids.iter().map(|&id| Response { id, reply: reply(), sliced: 0 }).collect();
        let frame = AnswerFrame { responses, ..AnswerFrame::default() };
        let mut wakes = Wakes::default();
        assert!(matches!(self.line.take(frame, &mut Assembly::default(), usize::MAX, &mut wakes), Ok(false)));
        wakes
    }
}

#[test]
fn who_asks_first_wakes_the_body_and_others_come_along() {
    let mut idle = Idle::new();
    let before = idle.body.count();
    idle.ask(&["first"]);
    idle.ask(&["second"]);
    assert_eq!(idle.body.count(), before + 1);
    assert!(idle.frame().is_none(), "the runtime goes round first: others may be about to ask");
    idle.ask(&["third"]);
    assert_eq!(idle.frame().expect("it has"), ["first", "second", "third"]);
    assert!(idle.frame().is_none());
    idle.ask(&["another"]);
    assert_eq!(idle.body.count(), before + 3, "once for the turn, once for this");
}

#[test]
fn answers_of_a_frame_wake_those_who_wait_once_all_have_theirs() {
    let mut idle = Idle::new();
    idle.ask(&["1", "2", "3"]);
    idle.send();
    let wakes = idle.answer(&[0, 1, 2]);
    assert_eq!(idle.asking.count(), 0);
    idle.ask(&["4"]);
    idle.send();
    drop(wakes);
    assert_eq!(idle.asking.count(), 3);
    drop(idle.answer(&[2]));
    assert_eq!(idle.asking.count(), 4);
}

#[test]
fn the_end_is_told_to_the_body() {
    let mut idle = Idle::new();
    idle.ask(&["1", "2"]);
    idle.send();
    assert!(idle.frame().is_none());
    let before = idle.body.count();
    drop(idle.line.end(closed()));
    assert_eq!(idle.body.count(), before + 1, "the line is over");
}

#[test]
fn what_is_said_to_be_under_way_is_the_most_of_late() {
    let mut idle = Idle::new();
    assert_eq!(idle.said(64), 64);
    drop(idle.answer(&(0..64).collect::<Vec<_>>()));
    // Callers who ask in groups: it is not the group that is told. These were under way until the answers came.
    assert_eq!(idle.said(8), 64);
    assert_eq!(idle.said(8), 56);
    // So were these, of which some were not sent.
    idle.ask(&["key"; 84]);
    drop(idle.answer(&(0..100).collect::<Vec<_>>()));
    assert_eq!(idle.said(1), 100);
    let mut said = 100;
    while said > 8 {
        drop(idle.answer(&[99]));
        let next = idle.said(1);
        assert!(next < said && next >= said - said.div_ceil(8), "{next} after {said}");
        said = next;
    }
}
