//! The asking end of an exchange.
//!
//! Whoever asks puts the question into the batch and leaves; the stream's body cuts frames from there when the runtime
//! comes round to it; the driver reads what comes back, and hands each answer to whoever waits. **The driver never
//! waits for anything but the stream** (and, after several answers, for the runtime to wake those that had them), so a
//! peer that does not read holds up what is sent to it, and nothing else. (Having had a frame, it looks for the next for
//! a moment before its thread sleeps: see `spin.rs`.)
//! What must hold:
//!
//! - every question gets one outcome: an answer, a refusal, or that the connection was lost; dropped with the driver,
//!   none;
//! - an id is not used again before the peer has responded to it, so that a late answer never meets another question;
//! - what is under way is bounded, in number and in bytes; what is beyond is `Busy` at once.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::Stream;
use slab::Slab;
use tokio::sync::{Notify, oneshot};
use tonic::Status;
use tonic::codec::Streaming;

use super::stream::Signs;
use super::unary::Unary;
use crate::batch::{Assembly, BadSlice, Batch, Part, SLICE_BYTES};
use crate::clock;
use crate::message::{Ask, GetTerms, Refusal, RefusalKind, Reply, Request, Sender};
use crate::spin::Spin;
use crate::transport::{Asker, CallError, Connection, Question, Unreachable};
use crate::wakes::Wakes;
use crate::wire::frames::{AnswerFrame, AskItem, ITEM_BYTES, Response, after_len};
use crate::wire::{WireRequest, check_size};

/// So many questions and calls may be under way to a peer.
const MOST_UNDER_WAY: usize = 1 << 16;

/// So many bytes may wait to be sent to a peer; a single message may be larger.
const MOST_BYTES: usize = 64 << 20;

/// How often questions are looked through for those that nobody wants an answer to any more, while there are any.
const LOOK_THROUGH_EVERY: Duration = Duration::from_millis(100);
/// The same while there are none.
const LOOK_IN_EVERY: Duration = Duration::from_secs(1);

/// A connection with an exchange on it. Dropping it closes it, once nobody waits for anything on it.
pub(super) struct Exchange {
    line: Arc<Line>,
    /// For what does not belong on the exchange: single requests for keys, and those of no node.
    unary: Unary,
    message_limit: usize,
}

/// What those who ask, the stream's body and the driver share.
pub(super) struct Line {
    state: Mutex<State>,
    signs: Signs,
    /// Tells the driver that the connection is not held any more and nobody waits for anything on it.
    done: Notify,
}

#[derive(Default)]
struct State {
    batch: Batch<AskItem>,
    under_way: Slab<UnderWay>,
    /// About how many are under way at most at a time, of late: it falls by an eighth a frame. How many there are when a
    /// frame is cut says less: callers who ask in groups are between two questions by then.
    most: usize,
    /// Who was last said to speak.
    sender: Option<Arc<Sender>>,
    /// Wakes the body.
    body: Option<Waker>,
    /// Whether the runtime has gone round once since there was something to send.
    turned: bool,
    let_go: bool,
    /// Why nothing is sent any more.
    over: Option<Unreachable>,
}

/// What waits for a response.
enum UnderWay {
    Question(Box<dyn Asker>),
    Call(oneshot::Sender<Result<Reply, CallError>>),
    /// It was given up; the id is still the peer's.
    GivenUp,
}

impl UnderWay {
    /// Has its reply, which is taken out of where it lies.
    fn answer(self, reply: &mut Result<Reply, Refusal>, wakes: &mut Wakes) {
        match (self, reply) {
            (Self::Question(asker), Ok(Reply::Get(answer))) => asker.take(Ok(answer), wakes),
            (other, reply) => other.end(mem::replace(reply, Err(no_fit())).map_err(CallError::from), wakes),
        }
    }

    fn end(self, outcome: Result<Reply, CallError>, wakes: &mut Wakes) {
        match self {
            Self::Question(asker) => match outcome {
                Ok(Reply::Get(mut answer)) => asker.take(Ok(&mut answer), wakes),
                Ok(_) => asker.take(Err(no_fit().into()), wakes),
                Err(error) => asker.take(Err(error), wakes),
            },
            // Nobody may wait for it any more.
            Self::Call(reply) => drop(reply.send(outcome)),
            Self::GivenUp => {}
        }
    }
}

impl Exchange {
    pub(super) fn new(line: Arc<Line>, unary: Unary, message_limit: usize) -> Self {
        Self { line, unary, message_limit }
    }

    fn send_call(&self, sender: &Arc<Sender>, request: WireRequest) -> Result<Calling, CallError> {
        let bytes = request.encoded_len();
        check_size("request", bytes, self.message_limit)?;
        let (done, reply) = oneshot::channel();
        let (id, body) = {
            let mut state = self.line.state();
            state.check_room()?;
            state.introduce(sender);
            let is_urgent = !matches!(request, WireRequest::Insert(_));
            let id = state.under_way.insert(UnderWay::Call(done)) as u64;
            match AskItem::call(id, request, SLICE_BYTES) {
                Some((head, Some(value))) => state.batch.push_large(head, id, value),
                Some((call, None)) if is_urgent && bytes <= SLICE_BYTES => state.batch.push_urgent(call, bytes),
                Some((call, None)) => state.batch.push(call, bytes),
                None => return Err(Refusal::new(RefusalKind::Invalid, "a question is not a call").into()),
            }
            (id, state.body.take())
        };
        wake(body);
        Ok(Calling { line: Arc::clone(&self.line), id, reply })
    }
}

impl Connection for Exchange {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Reply, CallError>> {
        let (Some(sender), Ask::Hello(_) | Ask::Remove(_) | Ask::Insert(_)) = (&request.sender, &request.ask) else {
            return self.unary.call(request);
        };
        let sender = Arc::clone(sender);
        let sent = self.send_call(&sender, request.into());
        Box::pin(async move { (&mut sent?.reply).await.unwrap_or_else(|_| Err(closed().into())) })
    }

    fn ask(&self, sender: &Arc<Sender>, terms: GetTerms, questions: &mut dyn Iterator<Item = Question>) {
        self.line.ask(sender, terms, questions);
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.line.signs.closed.clone().cancelled_owned())
    }
}

/// Somebody's wait for the reply to a call. Dropped before, it gives the call up.
struct Calling {
    line: Arc<Line>,
    id: u64,
    reply: oneshot::Receiver<Result<Reply, CallError>>,
}

impl Drop for Calling {
    fn drop(&mut self) {
        if !self.reply.is_terminated() {
            self.reply.close();
            self.line.give_up_call(self.id);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.line.state();
        state.let_go = true;
        self.line.end_if_done(&state);
    }
}

impl State {
    fn check_room(&self) -> Result<(), CallError> {
        if let Some(why) = &self.over {
            return Err(why.clone().into());
        }
        let is_full = self.under_way.len() >= MOST_UNDER_WAY || self.batch.bytes() >= MOST_BYTES;
        if is_full { Err(CallError::Busy) } else { Ok(()) }
    }

    /// Says who speaks, before the first that they say.
    fn introduce(&mut self, sender: &Arc<Sender>) {
        if self.sender.as_ref().is_none_or(|said| !Arc::ptr_eq(said, sender)) {
            self.sender = Some(Arc::clone(sender));
            self.batch.push_urgent(AskItem::Sender(Arc::clone(sender)), ITEM_BYTES);
        }
    }

    /// Cuts the next frame, which says how much is under way at a time: the other side answers part by part.
    fn cut(&mut self) -> Option<Vec<Part<AskItem>>> {
        let mut frame = self.batch.cut()?;
        let most = self.most.max(self.under_way.len());
        self.most = most - most / 8;
        frame.push(Part::Message(AskItem::UnderWay(most as u64)));
        Some(frame)
    }

    /// Whether nobody holds the connection, and nobody waits for anything on it. What was given up need not be waited
    /// for: its id is not used again in either case.
    fn is_done(&self) -> bool {
        self.let_go && self.under_way.iter().all(|(_, waiting)| matches!(waiting, UnderWay::GivenUp))
    }

    fn end(&mut self, id: u64) -> Option<UnderWay> {
        usize::try_from(id).ok().and_then(|id| self.under_way.try_remove(id))
    }

    /// Takes responses and slices in. What each response ends goes to `ended`, also if something that follows does not
    /// fit; those that slices have made whole are the frame's last then.
    fn take(
        &mut self,
        frame: &mut AnswerFrame,
        assembly: &mut Assembly<Response>,
        limit: usize,
        ended: &mut Vec<Option<UnderWay>>,
    ) -> Result<(), Refusal> {
        self.most = self.most.max(self.under_way.len());
        for response in &mut frame.responses {
            if response.sliced > 0 {
                // It ends nothing yet.
                ended.push(Some(UnderWay::GivenUp));
                begin(response.take(), assembly, limit).map_err(misbehaved)?;
                continue;
            }
            assembly.forget(response.id);
            ended.push(self.end(response.id));
        }
        for slice in &frame.slices {
            if let Some((id, mut response, value)) = assembly.add(slice).map_err(misbehaved)? {
                response.put_back(value);
                frame.responses.push(response);
                ended.push(self.end(id));
            }
        }
        Ok(())
    }
}

impl Line {
    pub(super) fn new(signs: Signs) -> Self {
        Self { state: Mutex::default(), signs, done: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts questions into the batch.
    fn ask(&self, sender: &Arc<Sender>, terms: GetTerms, questions: &mut dyn Iterator<Item = Question>) {
        let mut turned_away = Vec::new();
        let body = {
            let mut state = self.state();
            state.introduce(sender);
            // Most questions come alone, and need no copy of their terms.
            let (is_alone, mut terms) = (questions.size_hint().1 == Some(1), Some(terms));
            for Question { key, after, asker } in questions {
                if let Err(error) = state.check_room() {
                    turned_away.push((asker, error));
                    continue;
                }
                let Some(terms) = (if is_alone { terms.take() } else { terms.clone() }) else { break };
                let bytes = key.len() + ITEM_BYTES + after_len(&after);
                let id = state.under_way.insert(UnderWay::Question(asker)) as u64;
                state.batch.push(AskItem::Get { id, terms, key, after }, bytes);
            }
            state.body.take()
        };
        wake(body);
        let mut wakes = Wakes::default();
        for (asker, error) in turned_away {
            asker.take(Err(error), &mut wakes);
        }
    }

    /// Tells the driver, if there is nothing more for it to do.
    fn end_if_done(&self, state: &State) {
        if state.is_done() {
            self.done.notify_one();
        }
    }

    /// The next frame of answers. The first turn without one is for callers who had theirs and ask again.
    fn poll_frame(
        &self,
        answers: &mut Streaming<AnswerFrame>,
        spin: &mut Spin,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<AnswerFrame, Status>>> {
        let frame = Pin::new(answers).poll_next(cx);
        match frame {
            Poll::Ready(_) => spin.came(),
            Poll::Pending => spin.again(|| !self.state().under_way.is_empty(), cx),
        }
        frame
    }

    /// Takes a frame in; says whether the driver is done.
    fn take(
        &self,
        mut frame: AnswerFrame,
        assembly: &mut Assembly<Response>,
        limit: usize,
        wakes: &mut Wakes,
    ) -> Result<bool, Refusal> {
        let mut ended = Vec::with_capacity(frame.responses.len());
        let (body, is_done, mut kept_to) = {
            let mut state = self.state();
            state.batch.credit(usize::try_from(frame.credit).unwrap_or(usize::MAX));
            let kept_to = state.take(&mut frame, assembly, limit, &mut ended);
            if let Some(credit) = assembly.credit() {
                state.batch.push_urgent(AskItem::Credit(credit), ITEM_BYTES);
            }
            let body = if state.batch.is_ready() { state.body.take() } else { None };
            (body, state.is_done(), kept_to)
        };
        wake(body);
        // Whatever is wrong with the frame: what it ended has ended, and is told.
        for (under_way, response) in ended.into_iter().zip(&mut frame.responses) {
            match under_way {
                Some(under_way) => under_way.answer(&mut response.reply, wakes),
                None => kept_to = Err(misbehaved("a response to nothing that was asked")),
            }
        }
        kept_to.map(|()| is_done)
    }

    /// Nobody waits for a call any more: what has not been sent of it is not, so that an insert does not arrive after a
    /// removal that its caller sends next, and that may pass it.
    fn give_up_call(&self, id: u64) {
        let body = {
            let mut state = self.state();
            // If its reply has come, the id may be another's by now.
            let waiting = usize::try_from(id).ok().and_then(|id| state.under_way.get_mut(id));
            let Some(waiting @ UnderWay::Call(_)) = waiting else { return };
            if !matches!(waiting, UnderWay::Call(reply) if reply.is_closed()) {
                return;
            }
            *waiting = UnderWay::GivenUp;
            let is_head_sent = state.batch.give_up(id);
            if is_head_sent == Some(true) {
                state.batch.push_urgent(AskItem::Cancel(id), ITEM_BYTES);
            } else if is_head_sent == Some(false) || state.batch.take_back(|item| item.call_id() == Some(id)) > 0 {
                // The peer has not heard of it.
                state.end(id);
            }
            self.end_if_done(&state);
            state.body.take()
        };
        wake(body);
    }

    /// Gives up what nobody wants an answer to any more. Says whether anything is under way.
    fn look_through(&self) -> bool {
        let mut given_up = Vec::new();
        let (body, any) = {
            let mut state = self.state();
            let State { batch, under_way, .. } = &mut *state;
            for (id, waiting) in under_way.iter_mut() {
                if matches!(waiting, UnderWay::Question(asker) if asker.patience().is_none()) {
                    given_up.push((id, mem::replace(waiting, UnderWay::GivenUp)));
                }
            }
            // Those that have not been sent are not: word that they are given up would get there before them.
            let unwanted: HashSet<u64> = given_up.iter().map(|(id, _)| *id as u64).collect();
            let mut unsent = HashSet::new();
            if !unwanted.is_empty() {
                let mut is_unwanted = |id: u64| unwanted.contains(&id) && unsent.insert(id);
                batch.take_back(|item| item.question_id().is_some_and(&mut is_unwanted));
            }
            for id in unwanted {
                if unsent.contains(&id) {
                    state.end(id);
                } else {
                    state.batch.push_urgent(AskItem::Cancel(id), ITEM_BYTES);
                }
            }
            self.end_if_done(&state);
            let body = if given_up.is_empty() { None } else { state.body.take() };
            (body, !state.under_way.is_empty())
        };
        wake(body);
        let mut wakes = Wakes::default();
        for (_, under_way) in given_up {
            under_way.end(Err(CallError::GivenUp), &mut wakes);
        }
        any
    }

    /// Nothing is sent or answered any more. Gives back what had no response.
    fn end(&self, why: Unreachable) -> Vec<UnderWay> {
        let (rest, body) = {
            let mut state = self.state();
            state.over.get_or_insert(why);
            state.batch = Batch::default();
            (mem::take(&mut state.under_way), state.body.take())
        };
        self.signs.closed.cancel();
        wake(body);
        rest.into_iter().map(|(_, under_way)| under_way).collect()
    }
}

/// A value in slices begins. One that is too large is refused, once its last slice has come: until then the id is the
/// peer's, and must not meet another question.
fn begin(mut response: Response, assembly: &mut Assembly<Response>, limit: usize) -> Result<(), BadSlice> {
    let (id, len) = (response.id, to_len(response.sliced));
    match check_size("reply", len, limit) {
        Ok(()) => assembly.begin(id, response, len),
        Err(refusal) => {
            response.reply = Err(refusal);
            assembly.begin_unwanted(id, response, len)
        }
    }
}

fn to_len(sliced: u64) -> usize {
    usize::try_from(sliced).unwrap_or(usize::MAX)
}

fn misbehaved(how: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::Invalid, format!("the peer does not keep to the protocol: {how}"))
}

fn no_fit() -> Refusal {
    Refusal::new(RefusalKind::Invalid, "the response does not fit the question")
}

fn closed() -> Unreachable {
    Unreachable::new("the connection was closed")
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The stream's body: frames, cut from the batch when the transport has room for one.
pub(super) struct Frames(pub(super) Arc<Line>);

impl Stream for Frames {
    type Item = Vec<Part<AskItem>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state();
        if state.batch.is_ready() {
            // The runtime goes round once before a frame is cut: tasks that are about to ask as well then share it, and
            // the frame before it leaves.
            if !state.turned {
                state.turned = true;
                drop(state);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            state.turned = false;
            return Poll::Ready(state.cut());
        }
        if state.over.is_some() {
            return Poll::Ready(None);
        }
        state.body = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Ends the line when the driver does, however it does.
struct End(Arc<Line>);

impl Drop for End {
    fn drop(&mut self) {
        drop(self.0.end(closed()));
    }
}

/// Brings the answers, until the connection is lost, or not wanted any more.
pub(super) fn drive(line: Arc<Line>, answers: Streaming<AnswerFrame>, limit: usize) -> impl Future<Output = ()> + Send {
    // Made here: who drops the future before it has run ends the line, too.
    let end = End(line);
    async move { bring(&end.0, answers, limit).await }
}

async fn bring(line: &Line, mut answers: Streaming<AnswerFrame>, limit: usize) {
    let mut spin = Spin::new(clock::cores());
    let mut assembly = Assembly::default();
    let mut look = std::pin::pin!(clock::sleep(LOOK_IN_EVERY));
    let mut done = std::pin::pin!(line.done.notified());
    let why = loop {
        tokio::select! {
            biased;
            frame = poll_fn(|cx| line.poll_frame(&mut answers, &mut spin, cx)) => match frame {
                Some(Ok(frame)) => {
                    // One more: the driver itself.
                    let mut wakes = Wakes::for_up_to(frame.responses.len() + 1);
                    let taken = line.take(frame, &mut assembly, limit, &mut wakes);
                    wakes.together().await;
                    match taken {
                        Ok(false) => {}
                        Ok(true) => return,
                        Err(refusal) => break Unreachable::new(refusal),
                    }
                }
                None => break closed(),
                Some(Err(status)) => break Unreachable::new(super::in_words(&status)),
            },
            () = &mut look => {
                let every = if line.look_through() { LOOK_THROUGH_EVERY } else { LOOK_IN_EVERY };
                look.set(clock::sleep(every));
            }
            () = &mut done => return,
        }
    };
    let mut wakes = Wakes::default();
    for under_way in line.end(why.clone()) {
        under_way.end(Err(why.clone().into()), &mut wakes);
    }
}
