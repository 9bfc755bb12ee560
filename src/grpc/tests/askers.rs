//! Questions, and what became of each: told exactly once, or seen to be dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::messages::{sender, terms};
use super::net::soon;
use crate::key::Key;
use crate::message::{After, Answer, Copy, GetTerms, Outcome, Sender};
use crate::transport::{Asker, CallError, Connection, Question};
use crate::wakes::Wakes;

/// What became of a question: its place in the ask, and its outcome, or that it was dropped without one.
pub(super) type Told = (usize, Option<Result<Answer, CallError>>);

/// The outcomes of one ask, as they come.
pub(super) struct Outcomes {
    count: usize,
    told: mpsc::UnboundedReceiver<Told>,
    patient: Arc<AtomicBool>,
}

struct Waiting {
    at: usize,
    tell: Option<mpsc::UnboundedSender<Told>>,
    patient: Arc<AtomicBool>,
}

impl Asker for Waiting {
    fn patience(&self) -> Option<Duration> {
        self.patient.load(Ordering::SeqCst).then_some(Duration::from_secs(3600))
    }

    fn take(mut self: Box<Self>, answer: Result<&mut Answer, CallError>, _: &mut Wakes) {
        let tell = self.tell.take().expect("it is told once");
        // The test may have seen enough.
        let _ = tell.send((self.at, Some(answer.map(Answer::take))));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            let _ = tell.send((self.at, None));
        }
    }
}

/// Asks for keys, all at once.
pub(super) fn ask(connection: &Arc<dyn Connection>, keys: impl IntoIterator<Item = Key>) -> Outcomes {
    ask_on(connection, &sender("a"), terms(), keys)
}

pub(super) fn ask_on(
    connection: &Arc<dyn Connection>,
    sender: &Arc<Sender>,
    terms: GetTerms,
    keys: impl IntoIterator<Item = Key>,
) -> Outcomes {
    ask_after(connection, sender, terms, &After::default(), keys)
}

/// The same of questions that say more than that.
pub(super) fn ask_after(
    connection: &Arc<dyn Connection>,
    sender: &Arc<Sender>,
    terms: GetTerms,
    after: &After,
    keys: impl IntoIterator<Item = Key>,
) -> Outcomes {
    let (tell, told) = mpsc::unbounded_channel();
    let patient = Arc::new(AtomicBool::new(true));
    let mut count = 0;
    let mut questions = keys.into_iter().map(|key| {
        let asker = Waiting { at: count, tell: Some(tell.clone()), patient: Arc::clone(&patient) };
        count += 1;
        Question { key, after: after.clone(), asker: Box::new(asker) }
    });
    connection.ask(sender, terms, &mut questions);
    assert!(questions.next().is_none(), "every question is taken");
    Outcomes { count, told, patient }
}

impl Outcomes {
    /// The next to be told.
    pub(super) async fn next(&mut self) -> Told {
        soon(self.told.recv()).await.expect("each is told before it is dropped")
    }

    /// What has been told by now.
    pub(super) fn now(&mut self) -> Option<Told> {
        self.told.try_recv().ok()
    }

    /// From now on nobody wants an answer any more.
    pub(super) fn give_up(&self) {
        self.patient.store(false, Ordering::SeqCst);
    }

    /// All that are still to come, in the order of the questions. Each question has exactly one: there are as many as
    /// there were questions, and none is told twice.
    pub(super) async fn all(mut self) -> Vec<Option<Result<Answer, CallError>>> {
        let mut all: Vec<Option<Option<_>>> = (0..self.count).map(|_| None).collect();
        while let Some((at, outcome)) = soon(self.told.recv()).await {
            assert!(all[at].replace(outcome).is_none(), "question {at} was told twice");
        }
        all.into_iter().map(|told| told.expect("each question has an outcome")).collect()
    }

    /// All answers, where there is nothing else.
    pub(super) async fn answers(self) -> Vec<Answer> {
        let told = |outcome: Option<Result<Answer, CallError>>| outcome.expect("not dropped").expect("answered");
        self.all().await.into_iter().map(told).collect()
    }

    /// All errors, where there is nothing else.
    pub(super) async fn errors(self) -> Vec<CallError> {
        let told =
            |outcome: Option<Result<Answer, CallError>>| outcome.expect("not dropped").expect_err("not answered");
        self.all().await.into_iter().map(told).collect()
    }
}

/// Keys that are these numbers.
pub(super) fn numbered(numbers: impl IntoIterator<Item = usize>) -> impl Iterator<Item = Key> {
    numbers.into_iter().map(|number| Key::new(&number.to_string()))
}

/// The value in an answer.
pub(super) fn value_of(answer: Answer) -> bytes::Bytes {
    match answer.outcome {
        Outcome::Value(Copy { value, .. }) => value,
        other => panic!("not a value: {other:?}"),
    }
}
