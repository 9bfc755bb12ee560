//! How messages gather into frames, and large values into slices.
//!
//! A [`Batch`] is what waits to be sent in one direction of an exchange: while one frame is on its way, the next
//! gathers here. There is no timer. What must hold:
//!
//! - a frame has about [`FRAME_BYTES`] at most, unless a single message is larger;
//! - urgent messages (removals, acknowledgements, credit) leave before the usual ones, and both before slices;
//! - but a usual one that had no room behind them is the first of the next frame, or those that come meanwhile would
//!   hold it up for ever, and with it all that is behind it;
//! - large values never hold up the rest: a frame takes their slices in turn, in the room that is left, and no more
//!   than [`SLICES_UNDER_WAY`] bytes of them are sent that the other side has not given credit for;
//! - and the rest never holds up large values for ever: a frame has room for one slice.
//!
//! It is plain state: who wakes whom, and what a message looks like as bytes, is the transport's business.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;

/// How many messages a frame takes, if they are small. Fewer cost more of each frame's own: with 256 gets of 1 KiB
/// under way, frames of 64 took a third more processor time a get, and more of them a frame (1,024) no less than this.
pub(crate) const FRAME_MESSAGES: usize = 256;

/// How large a frame becomes: there is room for as many values of 1 KiB, with what is told of them. More would only
/// make the first message in it wait for the last; a good deal less shows in the cost of each frame (wake-ups, system
/// calls), which is what frames are there to share.
pub(crate) const FRAME_BYTES: usize = FRAME_MESSAGES * (1024 + 128);

/// What a frame has room for beside the messages that are expected in it.
const FEW_MORE: usize = 4;

/// A value of more bytes than this travels in slices, of this size.
pub(crate) const SLICE_BYTES: usize = 64 << 10;

/// So many bytes of slices may be under way in one direction. They stand before whatever is sent next, in the buffers
/// of the kernel and of the other side: 1 MiB is half a millisecond there, and 0.5 Gbit/s over 16 ms of distance.
pub(crate) const SLICES_UNDER_WAY: usize = 1 << 20;

/// The receiver of slices gives credit for so many bytes at a time.
const CREDIT_STEP: usize = SLICES_UNDER_WAY / 4;

/// So many large values are sent at a time; the others wait for one of them to end.
const LARGE_AT_A_TIME: usize = 16;

/// The most values that may be put together from slices at a time: what a sender that keeps to [`LARGE_AT_A_TIME`]
/// never exceeds.
const ASSEMBLED_AT_A_TIME: usize = 4 * LARGE_AT_A_TIME;

/// A part of a large value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) id: u64,
    pub(crate) bytes: Bytes,
}

/// What a frame is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part<T> {
    Message(T),
    Slice(Slice),
}

/// What waits to be sent.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    urgent: Waiting<T>,
    usual: Waiting<T>,
    /// Whether the first of the usual messages had no room in the last frame, which took all urgent ones before it.
    is_passed_over: bool,
    large: VecDeque<Large<T>>,
    /// Of what is urgent and usual.
    usual_bytes: usize,
    /// Of what is left of the large values.
    large_bytes: usize,
    under_way: usize,
}

/// Messages in the order in which they leave, as the parts of a frame, so that a whole line can be one; and about how many
/// bytes each has.
#[derive(Debug)]
struct Waiting<T> {
    parts: VecDeque<Part<T>>,
    bytes: VecDeque<usize>,
}

impl<T> Waiting<T> {
    fn new() -> Self {
        Self { parts: VecDeque::new(), bytes: VecDeque::new() }
    }

    fn len(&self) -> usize {
        self.parts.len()
    }

    fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn push(&mut self, message: T, bytes: usize) {
        self.parts.push_back(Part::Message(message));
        self.bytes.push_back(bytes);
    }

    /// All of it, as a frame. There is room for as many to come, and for a little more than that.
    fn take(&mut self) -> Vec<Part<T>> {
        self.bytes.clear();
        let next = VecDeque::with_capacity(self.parts.len() + FEW_MORE);
        mem::replace(&mut self.parts, next).into()
    }

    /// Takes the first message into a frame; says how many bytes it has.
    fn take_first(&mut self, frame: &mut Vec<Part<T>>) -> usize {
        frame.extend(self.parts.pop_front());
        self.bytes.pop_front().unwrap_or(0)
    }

    /// Takes messages into a frame while they fit.
    fn take_while(&mut self, frame: &mut Vec<Part<T>>, mut fits: impl FnMut(usize, usize) -> bool) {
        while self.bytes.front().is_some_and(|bytes| fits(frame.len(), *bytes)) {
            self.take_first(frame);
        }
    }

    /// Takes out what is unwanted; says how many bytes are left.
    fn take_back(&mut self, is_unwanted: &mut impl FnMut(&T) -> bool) -> usize {
        let parts = mem::take(&mut self.parts).into_iter().zip(mem::take(&mut self.bytes));
        let mut is_wanted = |part: &Part<T>| !matches!(part, Part::Message(message) if is_unwanted(message));
        (self.parts, self.bytes) = parts.filter(|(part, _)| is_wanted(part)).unzip();
        self.bytes.iter().sum()
    }
}

/// A value that is sent in slices: the message that tells of it leaves with the first.
#[derive(Debug)]
struct Large<T> {
    head: Option<T>,
    id: u64,
    rest: Bytes,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self {
            urgent: Waiting::new(),
            usual: Waiting::new(),
            is_passed_over: false,
            large: VecDeque::new(),
            usual_bytes: 0,
            large_bytes: 0,
            under_way: 0,
        }
    }
}

impl<T> Batch<T> {
    /// A message of about so many bytes.
    pub(crate) fn push(&mut self, message: T, bytes: usize) {
        self.usual_bytes += bytes;
        self.usual.push(message, bytes);
    }

    /// A small message, of about so many bytes, that passes the others.
    pub(crate) fn push_urgent(&mut self, message: T, bytes: usize) {
        self.usual_bytes += bytes;
        self.urgent.push(message, bytes);
    }

    /// A message whose value follows in slices, which bear its id.
    pub(crate) fn push_large(&mut self, head: T, id: u64, value: Bytes) {
        self.large_bytes += value.len();
        self.large.push_back(Large { head: Some(head), id, rest: value });
    }

    /// Stops sending the value with this id, if it has not been sent to its end; says whether its message has been
    /// sent.
    pub(crate) fn give_up(&mut self, id: u64) -> Option<bool> {
        let at = self.large.iter().position(|large| large.id == id)?;
        let large = self.large.remove(at)?;
        self.large_bytes -= large.rest.len();
        Some(large.head.is_none())
    }

    /// Takes messages back that have not been sent; says how many.
    pub(crate) fn take_back(&mut self, mut is_unwanted: impl FnMut(&T) -> bool) -> usize {
        let before = self.urgent.len() + self.usual.len();
        // Another may be the first then, that came after urgent ones.
        self.is_passed_over = false;
        self.usual_bytes = self.urgent.take_back(&mut is_unwanted) + self.usual.take_back(&mut is_unwanted);
        before - self.urgent.len() - self.usual.len()
    }

    /// The other side has taken in so many bytes of slices.
    pub(crate) fn credit(&mut self, bytes: usize) {
        self.under_way = self.under_way.saturating_sub(bytes);
    }

    /// How many bytes of messages wait: of what becomes the next frames, large values aside.
    pub(crate) fn usual_bytes(&self) -> usize {
        self.usual_bytes
    }

    /// How many usual messages wait.
    pub(crate) fn usual_len(&self) -> usize {
        self.usual.len()
    }

    /// How many bytes wait, large values included.
    pub(crate) fn bytes(&self) -> usize {
        self.usual_bytes + self.large_bytes
    }

    /// How many large values wait, or are being sent.
    pub(crate) fn large_values(&self) -> usize {
        self.large.len()
    }

    /// Whether there is something that may be sent now.
    pub(crate) fn is_ready(&self) -> bool {
        !self.urgent.is_empty() || !self.usual.is_empty() || self.may_slice()
    }

    /// Whether nothing waits at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.usual.is_empty() && self.large.is_empty()
    }

    fn may_slice(&self) -> bool {
        !self.large.is_empty() && self.under_way < SLICES_UNDER_WAY
    }

    /// Cuts the next frame; `None` if nothing may be sent now.
    pub(crate) fn cut(&mut self) -> Option<Vec<Part<T>>> {
        if !self.is_ready() {
            return None;
        }
        // Room for one slice is kept, so that the rest cannot hold up large values for ever.
        let room = FRAME_BYTES - if self.may_slice() { SLICE_BYTES } else { 0 };
        let (mut frame, mut taken) = self.cut_messages(room);
        self.usual_bytes -= taken;
        while self.may_slice() && taken + SLICE_BYTES <= FRAME_BYTES {
            taken += self.cut_slice(&mut frame);
        }
        Some(frame)
    }

    /// The messages of the next frame, and about how many bytes they are.
    fn cut_messages(&mut self, room: usize) -> (Vec<Part<T>>, usize) {
        let was_passed_over = mem::take(&mut self.is_passed_over);
        // Most frames are all that there is, which then need not be moved.
        if self.urgent.is_empty() && self.usual.len() <= FRAME_MESSAGES && self.usual_bytes <= room {
            return (self.usual.take(), self.usual_bytes);
        }
        let mut frame = Vec::with_capacity((self.urgent.len() + self.usual.len()).min(FRAME_MESSAGES) + FEW_MORE);
        let mut taken = if was_passed_over { self.usual.take_first(&mut frame) } else { 0 };
        let waiting = self.usual.len();
        for line in [&mut self.urgent, &mut self.usual] {
            line.take_while(&mut frame, |len, bytes| {
                let fits = len < FRAME_MESSAGES && (taken == 0 || taken + bytes <= room);
                taken += if fits { bytes } else { 0 };
                fits
            });
            if !line.is_empty() {
                break;
            }
        }
        self.is_passed_over = self.urgent.is_empty() && waiting > 0 && self.usual.len() == waiting;
        (frame, taken)
    }

    /// The next slice of the value whose turn it is, and its message before the first. Says how long it is.
    fn cut_slice(&mut self, frame: &mut Vec<Part<T>>) -> usize {
        let Some(mut large) = self.large.pop_front() else { return SLICE_BYTES };
        frame.extend(large.head.take().map(Part::Message));
        let bytes = large.rest.split_to(large.rest.len().min(SLICE_BYTES));
        let len = bytes.len();
        self.large_bytes -= len;
        self.under_way += len;
        frame.push(Part::Slice(Slice { id: large.id, bytes }));
        if !large.rest.is_empty() {
            // Behind the others whose turn it is, and before those that wait for theirs.
            let place = self.large.len().min(LARGE_AT_A_TIME - 1);
            self.large.insert(place, large);
        }
        len
    }
}

/// A value that comes in slices.
#[derive(Debug)]
struct Incoming<T> {
    head: T,
    is_wanted: bool,
    len: usize,
    come: usize,
    bytes: Vec<u8>,
}

impl<T> Incoming<T> {
    /// Puts a slice behind those before. It is copied, as it may be a small part of a large frame. Room grows with what
    /// has come, rather than with what has been promised, and ends as the value's length: the value then keeps no
    /// more.
    fn gather(&mut self, slice: &[u8]) {
        let (room, needed) = (self.bytes.capacity(), self.bytes.len() + slice.len());
        if needed > room {
            let more = if room >= self.len / 4 { self.len } else { needed.max(2 * room) };
            self.bytes.reserve_exact(more - self.bytes.len());
        }
        self.bytes.extend_from_slice(slice);
    }
}

/// The values of one direction of an exchange that are being put together from their slices.
#[derive(Debug)]
pub(crate) struct Assembly<T> {
    values: Vec<(u64, Incoming<T>)>,
    /// Bytes that were taken in since the last credit.
    taken: usize,
}

/// Why slices cannot be put together: the other side does not keep to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSlice {
    #[error("a slice of a value that nothing was said of")]
    Unknown,
    #[error("slices of more bytes than the value was said to have")]
    TooLong,
    #[error("more values in slices at a time than may be")]
    TooMany,
}

impl<T> Default for Assembly<T> {
    fn default() -> Self {
        Self { values: Vec::new(), taken: 0 }
    }
}

impl<T> Assembly<T> {
    /// A value of `len` bytes begins. The caller has checked that values may be that long.
    pub(crate) fn begin(&mut self, id: u64, head: T, len: usize) -> Result<(), BadSlice> {
        // Room for what has been sent, rather than for what has been promised.
        let bytes = Vec::with_capacity(len.min(SLICES_UNDER_WAY));
        self.enter(id, Incoming { head, is_wanted: true, len, come: 0, bytes })
    }

    /// A value of `len` bytes begins that is not wanted: its slices are thrown away, and the last gives its message
    /// alone.
    pub(crate) fn begin_unwanted(&mut self, id: u64, head: T, len: usize) -> Result<(), BadSlice> {
        self.enter(id, Incoming { head, is_wanted: false, len, come: 0, bytes: Vec::new() })
    }

    fn enter(&mut self, id: u64, value: Incoming<T>) -> Result<(), BadSlice> {
        if self.values.len() >= ASSEMBLED_AT_A_TIME {
            return Err(BadSlice::TooMany);
        }
        self.values.push((id, value));
        Ok(())
    }

    /// Takes a slice in; with the last of a value, gives its message and its bytes.
    pub(crate) fn add(&mut self, slice: &Slice) -> Result<Option<(u64, T, Bytes)>, BadSlice> {
        self.taken += slice.bytes.len();
        let at = self.values.iter().position(|(id, _)| *id == slice.id).ok_or(BadSlice::Unknown)?;
        let value = &mut self.values[at].1;
        value.come += slice.bytes.len();
        if value.come > value.len {
            return Err(BadSlice::TooLong);
        }
        if value.is_wanted {
            value.gather(&slice.bytes);
        }
        if value.come < value.len {
            return Ok(None);
        }
        let (id, Incoming { head, bytes, .. }) = self.values.swap_remove(at);
        Ok(Some((id, head, bytes.into())))
    }

    /// Forgets the value with this id: its slices have stopped. Says whether there is one.
    pub(crate) fn forget(&mut self, id: u64) -> bool {
        let before = self.values.len();
        self.values.retain(|(other, _)| *other != id);
        self.values.len() < before
    }

    /// The credit to give now, if it is time for some.
    pub(crate) fn credit(&mut self) -> Option<u64> {
        if self.taken < CREDIT_STEP {
            return None;
        }
        Some(std::mem::take(&mut self.taken) as u64)
    }
}
