//! The answering end of an exchange.
//!
//! [`Answers`] is the body of the response: polled for a frame, it reads what is asked, answers what needs no wait on
//! the spot, and cuts the next frame from that: from half of the questions that are under way, so that the other side
//! has work while the rest is looked at. No task is spawned and none woken for a hit, and what the other side does not
//! read stops what is read from it. What must hold:
//!
//! - every question and every call gets one response, also one that makes no sense, and one that is given up;
//! - what waits for a load holds up nothing else;
//! - memory is bounded whatever is asked: questions wait unread while answers wait unsent, so many may wait for loads,
//!   and so many bytes of them behind large values (`answering/backlog.rs`).

mod backlog;
mod waits;

use std::collections::HashSet;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::codec::Streaming;

use self::backlog::{Backlog, Section};
use self::waits::Waits;
use super::status_of;
use crate::batch::{Assembly, BadSlice, Batch, FRAME_BYTES, FRAME_MESSAGES, Part, SLICE_BYTES};
use crate::clock;
use crate::coherence::Presence;
use crate::error::Error;
use crate::key::Key;
use crate::message::{Answer, Outcome, Refusal, RefusalKind, Reply, Request, Sender};
use crate::spin::Spin;
use crate::transport::{Handler, Room, Served, Wanted};
use crate::wire::frames::{AnswerItem, AskFrame, Gets, ITEM_BYTES, Question, Response, call_in};
use crate::wire::{check_size, proto};

/// So many questions and calls of one stream may wait; a question beyond that is answered with `Busy`.
const MOST_WAITING: usize = 16_384;

/// Fewer answers than this are not worth a frame of their own, while there are more.
const FEW: usize = 8;

/// Where more than this is under way, frames are full before half of that is answered, and both sides have work in any
/// case.
const MANY: usize = 2 * FRAME_MESSAGES;

/// While so many large values are being sent, no more answers are looked for or taken from loads: some may be as large.
const MOST_LARGE: usize = 64;

/// The responses of one exchange.
pub(super) struct Answers {
    asked: Streaming<AskFrame>,
    is_open: bool,
    /// Why nothing more is read, if that is not how streams usually end: told once all the rest has been.
    ended: Option<Status>,
    handler: Arc<dyn Handler>,
    limit: usize,
    sender: Option<Arc<Sender>>,
    /// That the sender is there: for as long as this stream is.
    presence: Option<Presence>,
    /// Questions that have been read and not been looked at.
    backlog: Backlog,
    waiting: Waits,
    calls: FuturesUnordered<BoxFuture<'static, Response>>,
    batch: Batch<AnswerItem>,
    /// So many answers are a frame's worth, even if it has room for more: so that the other side has work while this one
    /// goes on.
    enough: usize,
    /// Whether the last poll cut a frame.
    has_cut: bool,
    spin: Spin,
    /// Calls whose values come in slices, and those that are refused once theirs have come: until then the id is the
    /// other side's, and must not meet another call.
    inserts: Assembly<Result<proto::Call, Refusal>>,
    is_stopping: bool,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Answers {
    /// Once `stopping` fires the stream ends as soon as all that was asked has its response. Until then it is read:
    /// large values need credit, and what is asked of a node that stops is refused by its handler.
    pub(super) fn new(
        asked: Streaming<AskFrame>,
        handler: Arc<dyn Handler>,
        limit: usize,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            asked,
            is_open: true,
            ended: None,
            is_stopping: false,
            stopped: Box::pin(stopping.cancelled_owned()),
            handler,
            limit,
            sender: None,
            presence: None,
            backlog: Backlog::default(),
            waiting: Waits::default(),
            calls: FuturesUnordered::new(),
            batch: Batch::default(),
            // Until the other side says what is under way.
            enough: usize::MAX,
            has_cut: false,
            spin: Spin::new(clock::cores()),
            inserts: Assembly::default(),
        }
    }

    fn take(&mut self, frame: AskFrame) -> Result<(), Refusal> {
        if let Some(sender) = frame.sender {
            self.presence = self.handler.meet(&sender);
            self.sender = Some(sender);
        }
        if frame.under_way > 0 {
            self.enough = enough_of(frame.under_way);
        }
        // First: an id that is given up may be used again in the same frame, if its response has crossed with that.
        self.give_up(frame.cancelled);
        self.batch.credit(usize::try_from(frame.credit).unwrap_or(usize::MAX));
        for call in frame.calls {
            self.take_call(call)?;
        }
        for gets in frame.gets {
            self.take_questions(gets);
        }
        for slice in &frame.slices {
            match self.inserts.add(slice).map_err(misbehaved)? {
                Some((_, Ok(mut call), value)) => {
                    if let Some(proto::call::Call::Insert(insert)) = &mut call.call {
                        insert.value = value;
                    }
                    self.call(call);
                }
                Some((id, Err(refusal), _)) => self.respond(id, Err(refusal)),
                None => {}
            }
        }
        if let Some(credit) = self.inserts.credit() {
            self.batch.push_urgent(AnswerItem::Credit(credit), ITEM_BYTES);
        }
        Ok(())
    }

    fn take_call(&mut self, call: proto::Call) -> Result<(), Refusal> {
        if call.sliced == 0 {
            self.call(call);
            return Ok(());
        }
        let len = usize::try_from(call.sliced).unwrap_or(usize::MAX);
        match check_size("request", len, self.limit) {
            Ok(()) => self.inserts.begin(call.id, Ok(call), len),
            Err(refusal) => self.inserts.begin_unwanted(call.id, Err(refusal), len),
        }
        .map_err(misbehaved)
    }

    /// Has the handler answer a call.
    fn call(&mut self, call: proto::Call) {
        let id = call.id;
        if self.calls.len() >= MOST_WAITING {
            return self.respond(id, Err(Refusal::new(RefusalKind::TooLarge, "too many requests wait")));
        }
        let (handler, sender) = (Arc::clone(&self.handler), self.sender.clone());
        match call_in(call) {
            Ok(ask) => {
                let response = async move {
                    let reply = handler.handle(Request { sender, ask }).await;
                    Response { id, reply, sliced: 0 }
                };
                self.calls.push(response.boxed());
            }
            Err(refusal) => self.respond(id, Err(refusal)),
        }
    }

    /// Puts questions on the backlog, but for those that make no sense.
    fn take_questions(&mut self, gets: Gets) {
        let (mut ids, mut wanted) =
            (Vec::with_capacity(gets.questions.len()), Vec::with_capacity(gets.questions.len()));
        let refusal = gets.terms.as_ref().err().cloned();
        for question in gets.questions {
            let len = question.key.len();
            if let Some(refusal) = &refusal {
                self.respond(question.id, Err(refusal.clone()));
            } else if len > Key::MAX_LEN {
                let message = format!("the key of {len} bytes is longer than the limit of {} bytes", Key::MAX_LEN);
                self.respond(question.id, Err(Refusal::new(RefusalKind::Invalid, message)));
            } else {
                ids.push(question.id);
                let Question { key, time_limit, max_age, after, .. } = question;
                wanted.push(Wanted { key, time_limit, max_age, after });
            }
        }
        if let Ok(terms) = gets.terms {
            self.backlog.push(Section::new(terms, ids, wanted));
        }
    }

    /// What is on the backlog stays there for now: more is read meanwhile. Says whether there was no room for some.
    fn keep_backlog(&mut self) -> bool {
        let beyond = self.backlog.keep();
        let any = !beyond.is_empty();
        for id in beyond {
            self.respond(id, Ok(failed(Error::Busy)));
        }
        any
    }

    /// Looks at questions, as many as there is room for their answers.
    fn look_at(&mut self, section: &mut Section) {
        let room = Room {
            bytes: FRAME_BYTES.saturating_sub(self.batch.usual_bytes()),
            answers: self.enough.saturating_sub(self.batch.usual_len()),
        };
        let (handler, sender) = (Arc::clone(&self.handler), self.sender.clone());
        let (terms, ids, wanted) = section.rest();
        let looked_at = handler.serve(sender.as_ref(), terms, wanted, room, &mut |at, served| {
            let id = ids[at];
            match served {
                Served::Now(answer) => self.respond(id, answer.map(Reply::Get)),
                Served::Later(_) if self.waiting.len() >= MOST_WAITING => self.respond(id, Ok(failed(Error::Busy))),
                Served::Later(answer) => self.waiting.add(id, answer),
            }
        });
        section.looked_at(looked_at);
    }

    /// Nobody wants these any more. What has been answered by now, or is on its way, has its response.
    fn give_up(&mut self, cancelled: Vec<u64>) {
        let mut others = HashSet::new();
        for id in cancelled {
            if self.inserts.forget(id) {
                self.respond(id, Err(Refusal::new(RefusalKind::Invalid, "the request was given up")));
            } else if self.waiting.give_up(id) || self.batch.give_up(id).is_some() {
                self.respond_given_up(id);
            } else {
                others.insert(id);
            }
        }
        if !others.is_empty() {
            for id in self.backlog.give_up(&others) {
                self.respond_given_up(id);
            }
        }
    }

    fn respond_given_up(&mut self, id: u64) {
        self.respond(id, Ok(failed(Error::Timeout { limit: Duration::ZERO })));
    }

    fn respond(&mut self, id: u64, reply: Result<Reply, Refusal>) {
        self.send(Response { id, reply, sliced: 0 });
    }

    fn send(&mut self, mut response: Response) {
        let mut bytes = response.len();
        if let Err(refusal) = check_size("reply", bytes, self.limit) {
            response.reply = Err(refusal);
            bytes = response.len();
        }
        let is_small = !matches!(response.reply, Ok(Reply::Get(_)));
        if let Some(value) = response.take_large(SLICE_BYTES) {
            let id = response.id;
            self.batch.push_large(AnswerItem::Response(response), id, value);
            return;
        }
        if is_small {
            self.batch.push_urgent(AnswerItem::Response(response), bytes);
        } else {
            self.batch.push(AnswerItem::Response(response), bytes);
        }
    }

    /// Whether there is room for more answers to questions.
    fn has_room(&self) -> bool {
        self.batch.usual_bytes() < FRAME_BYTES && self.batch.large_values() < MOST_LARGE
    }

    /// Whether there is a frame's worth of answers.
    fn has_frame(&self) -> bool {
        self.batch.usual_bytes() >= FRAME_BYTES || self.batch.usual_len() >= self.enough
    }

    /// Does what can be done until there is a frame's worth of answers.
    fn progress(&mut self, cx: &mut Context<'_>) -> Result<(), Refusal> {
        loop {
            while self.batch.usual_bytes() < FRAME_BYTES && !self.calls.is_empty() {
                let Poll::Ready(Some(response)) = self.calls.poll_next_unpin(cx) else { break };
                self.send(response);
            }
            while self.has_room() && !self.waiting.is_empty() {
                let Some(response) = self.waiting.next(cx) else { break };
                self.send(response);
            }
            if self.has_frame() {
                return Ok(());
            }
            if self.has_room()
                && let Some(mut section) = self.backlog.take()
            {
                self.look_at(&mut section);
                self.backlog.put_back(section);
                continue;
            }
            if self.keep_backlog() {
                continue;
            }
            if !self.is_open {
                return Ok(());
            }
            match Pin::new(&mut self.asked).poll_next(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.spin.came();
                    self.take(frame)?;
                }
                // However it ended: what the other side has asked is answered, if it still listens.
                Poll::Ready(Some(Err(status))) => (self.is_open, self.ended) = (false, Some(status)),
                Poll::Ready(None) => self.is_open = false,
                Poll::Pending => return Ok(()),
            }
        }
    }

    /// Has the runtime go round once, if a frame has been cut: it leaves meanwhile.
    fn lets_leave(&mut self, cx: &Context<'_>) -> bool {
        let has_cut = mem::replace(&mut self.has_cut, false);
        if has_cut {
            cx.waker().wake_by_ref();
        }
        has_cut
    }

    /// Whether nothing more can leave: large values wait for credit, which comes from who has ended its side, and
    /// whatever else there may be waits for them.
    fn is_stuck(&self) -> bool {
        let waits_for_itself = self.calls.is_empty() && (self.waiting.is_empty() || !self.has_room());
        !self.is_open && waits_for_itself && self.batch.large_values() > 0 && !self.batch.is_ready()
    }

    fn is_over(&self) -> bool {
        let is_idle = self.backlog.is_empty() && self.waiting.is_empty() && self.calls.is_empty();
        (!self.is_open || self.is_stopping) && is_idle && self.batch.is_empty()
    }
}

impl Stream for Answers {
    type Item = Result<Vec<Part<AnswerItem>>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.is_stopping = self.is_stopping || self.stopped.poll_unpin(cx).is_ready();
        // The frame before leaves while there is more to look at,
        if !self.backlog.is_empty() && self.lets_leave(cx) {
            return Poll::Pending;
        }
        if let Err(refusal) = self.progress(cx) {
            return Poll::Ready(Some(Err(status_of(&refusal))));
        }
        // or at the latest before the next.
        if self.batch.is_ready() && self.lets_leave(cx) {
            return Poll::Pending;
        }
        self.has_cut = false;
        match self.batch.cut() {
            Some(frame) => {
                self.has_cut = true;
                Poll::Ready(Some(Ok(frame)))
            }
            None if self.is_over() => Poll::Ready(self.ended.take().map(Err)),
            None if self.is_stuck() => {
                let why =
                    "the asking side has ended, and with it the credit for the large values that it has asked for";
                Poll::Ready(Some(Err(self.ended.take().unwrap_or_else(|| Status::failed_precondition(why)))))
            }
            None => {
                // Who has had answers asks again.
                self.spin.again(|| true, cx);
                Poll::Pending
            }
        }
    }
}

/// How many answers are a frame's worth, with so much under way: half of it.
fn enough_of(under_way: u64) -> usize {
    match usize::try_from(under_way) {
        Ok(count) if count <= MANY => (count / 2).max(FEW),
        _ => usize::MAX,
    }
}

fn failed(error: Error) -> Reply {
    Reply::Get(Answer { outcome: Outcome::Failed(error), held: Duration::ZERO })
}

fn misbehaved(how: BadSlice) -> Refusal {
    Refusal::new(RefusalKind::Invalid, format!("the stream does not keep to the protocol: {how}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use bytes::Bytes;
    use tonic::body::Body;

    use super::super::codec;
    use super::*;
    use crate::message::{After, GetTerms};

    /// Has every key at once, and counts those that it was asked for.
    #[derive(Default)]
    struct AtOnce(AtomicUsize);

    impl Handler for AtOnce {
        fn handle(&self, _: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
            std::future::pending().boxed()
        }

        fn serve(
            self: Arc<Self>,
            _: Option<&Arc<Sender>>,
            _: &GetTerms,
            wanted: &[Wanted],
            room: Room,
            served: &mut dyn FnMut(usize, Served),
        ) -> usize {
            let count = wanted.len().min(room.answers.max(1));
            self.0.fetch_add(count, Ordering::SeqCst);
            let not_found = || Ok(Answer { outcome: Outcome::NotFound, held: Duration::ZERO });
            (0..count).for_each(|at| served(at, Served::Now(not_found())));
            count
        }
    }

    /// What is seen of so many questions that are there at once, poll by poll: how many have been looked at by then, and
    /// how many answers the frame has, if there is one.
    fn polls(questions: u64, under_way: u64) -> Vec<(usize, Option<usize>)> {
        let handler = Arc::new(AtOnce::default());
        let asked = Streaming::new_empty(codec::Answering, Body::empty());
        let mut answers =
            Answers::new(asked, Arc::clone(&handler) as Arc<dyn Handler>, 1 << 20, CancellationToken::new());
        let all: Vec<_> = (0..questions).map(|id| (id, 1)).collect();
        take(&mut answers, AskFrame { gets: vec![gets(&all)], under_way, ..AskFrame::default() });
        let mut seen = Vec::new();
        loop {
            let frame = match answers.poll_next_unpin(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(frame)) => Some(frame.expect("it keeps to the protocol").len()),
                Poll::Ready(None) => return seen,
                Poll::Pending => None,
            };
            seen.push((handler.0.load(Ordering::SeqCst), frame));
            assert!(seen.len() < 100, "it goes on for ever: {seen:?}");
        }
    }

    #[test]
    fn half_of_what_is_under_way_leaves_before_the_rest_is_looked_at() {
        assert_eq!(polls(32, 32), [(16, Some(16)), (16, None), (32, Some(16))]);
        assert_eq!(polls(20, 4), [(8, Some(8)), (8, None), (16, Some(8)), (16, None), (20, Some(4))], "not fewer");
        assert_eq!(polls(256, 256), [(128, Some(128)), (128, None), (256, Some(128))]);
    }

    #[test]
    fn with_much_under_way_or_if_it_is_not_said_a_frame_takes_what_there_is() {
        assert_eq!(polls(32, 0), [(32, Some(32))]);
        assert_eq!(polls(200, 513), [(200, Some(200))]);
        assert_eq!(polls(32, u64::MAX), [(32, Some(32))]);
    }

    struct NeverAsked;

    impl Handler for NeverAsked {
        fn handle(&self, _: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
            std::future::pending().boxed()
        }
    }

    fn gets(keys: &[(u64, usize)]) -> Gets {
        let ask = |&(id, len): &(u64, usize)| Question {
            id,
            key: Bytes::from(vec![b'k'; len]),
            time_limit: Duration::MAX,
            max_age: None,
            after: After::default(),
        };
        let group = Arc::from("g");
        let terms = GetTerms { group, schema: 0, time_limit: Duration::MAX, nested: false, max_age: None };
        Gets { terms: Ok(terms), questions: keys.iter().map(ask).collect() }
    }

    fn take(answers: &mut Answers, frame: AskFrame) {
        answers.take(frame).expect("it keeps to the protocol");
    }

    #[test]
    fn what_asks_nothing_is_not_put_on_the_backlog_nor_left_there() {
        let asked = Streaming::new_empty(codec::Answering, Body::empty());
        let mut answers = Answers::new(asked, Arc::new(NeverAsked), 1 << 20, CancellationToken::new());
        let too_long = Key::MAX_LEN + 1;
        let (nothing, refused) = (gets(&[]), gets(&[(1, too_long), (2, too_long)]));
        take(&mut answers, AskFrame { gets: vec![nothing, refused], ..AskFrame::default() });
        assert!(answers.backlog.is_empty(), "nothing of that waits for anything");
        let some = || vec![gets(&[(1, 1), (2, 1), (3, too_long)]), gets(&[(4, 1)])];
        take(&mut answers, AskFrame { gets: some(), ..AskFrame::default() });
        assert_eq!(answers.backlog.lens(), [2, 1]);
        let given_up = AskFrame { cancelled: vec![1, 4], ..AskFrame::default() };
        take(&mut answers, given_up);
        assert_eq!(answers.backlog.lens(), [1]);
    }
}
