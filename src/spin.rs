//! Spinning: whoever waits for what is likely to come at once looks for it a few times more before its thread sleeps.
//!
//! To put a thread to sleep and to rouse it takes longer than a small frame takes to the other side and back: with few
//! requests under way, both sides of an exchange spend most of their time on falling asleep and being roused. So who
//! has just had a frame has the runtime turn for a while: each turn runs what other tasks there are, and looks at
//! sockets and timers.
//!
//! There are two kinds of turn ([`Turns`]). A task that yields is back within a microsecond if there is nothing else.
//! But the thread takes it for work that it has found, and rouses another to look for more: one that finds none and
//! sleeps again, on a core that the other side could use. So only the first few are such, if there are other threads.
//! Then the task waits for an event of its own, which the runtime finds as it finds a frame: it takes a little longer,
//! and rouses nobody.
//!
//! Who spins for as long as a sleep costs, and then sleeps, pays at most twice of what it would have paid had it known
//! (Karlin, Li, Manasse and Owicki, "Empirical studies of competitive spinning for a shared-memory multiprocessor",
//! 1991). But nobody should pay that for ever: where spinning is in vain more often than not, since the other side asks
//! but now and then, most waits sleep at once. On a single core the other side could not even run meanwhile: nobody
//! spins there.
//!
//! All of this is how fast something is noticed, and not whether: who waits is woken by what it waits for all the same.

#[cfg(unix)]
use std::pin::Pin;
use std::pin::pin;
use std::task::Context;
#[cfg(unix)]
use std::task::Poll;

#[cfg(unix)]
use tokio::io::{AsyncRead, ReadBuf};
#[cfg(unix)]
use tokio::net::unix::pipe;
#[cfg(unix)]
use tokio::runtime::{Handle, RuntimeFlavor};

/// So many turns of a runtime that has nothing to do take a little more than 100 us: as long as it takes to rouse a
/// sleeping thread on the other side and to hear from it. So one side that spins waits for the other to begin to.
const TURNS: u32 = 64;

/// So many of them are yields.
const YIELDS: u32 = 4;

/// So many turns are taken even if nothing is expected: it may be asked for in one of them.
const FIRST_TURNS: u32 = 1;

/// It is given up for a while when it was in vain this much more often than not,
const TRIES: u32 = 8;
/// or this much, if it had proven itself before.
const MOST_TRIES: u32 = 12;

/// For so many waits it is given up then, at first; twice as many each further time, up to the most.
const FIRST_PAUSE: u32 = 16;
const MOST_PAUSE: u32 = 512;

/// Whether to look again, by how that went of late.
#[derive(Debug)]
pub(crate) struct Spin {
    /// How many turns this wait may still take.
    left: u32,
    /// How often more it may be in vain, and is not yet given up.
    tries: u32,
    /// So many waits are to sleep at once.
    paused: u32,
    next_pause: u32,
    /// Whether the other side can run meanwhile.
    has_company: bool,
    turns: Turns,
}

/// Turns of the runtime by events: a pipe of its own, in which there is a byte to be read as soon as the runtime looks.
/// There is none while spinning is given up, on runtimes of one thread, which rouses nobody, nor on systems that have
/// none that tokio can watch.
#[derive(Debug, Default)]
struct Turns {
    #[cfg(unix)]
    pipe: Option<(pipe::Sender, pipe::Receiver)>,
}

impl Turns {
    /// Has the task polled again after a turn; says whether it will be.
    #[cfg(unix)]
    fn wait(&mut self, cx: &mut Context<'_>) -> bool {
        if self.pipe.is_none() && has_many_threads() {
            self.pipe = pipe::pipe().ok();
        }
        let Some((sender, receiver)) = &mut self.pipe else { return false };
        let mut bytes = [0; 8];
        let mut bytes = ReadBuf::new(&mut bytes);
        // What is there is taken out until there is nothing, which is when the task is noted as one that waits.
        while let Poll::Ready(read) = Pin::new(&mut *receiver).poll_read(cx, &mut bytes) {
            if read.is_err() {
                return false;
            }
            bytes.clear();
        }
        sender.try_write(&[0]).is_ok()
    }

    #[cfg(not(unix))]
    fn wait(&mut self, _: &mut Context<'_>) -> bool {
        false
    }

    #[cfg(test)]
    fn are_events(&self) -> bool {
        #[cfg(unix)]
        return self.pipe.is_some();
        #[cfg(not(unix))]
        return false;
    }
}

/// Whether there is a thread of the runtime to be roused.
#[cfg(unix)]
fn has_many_threads() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

impl Spin {
    /// For a process that may use so many cores.
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            left: 0,
            tries: TRIES,
            paused: 0,
            next_pause: FIRST_PAUSE,
            has_company: cores > 1,
            turns: Turns::default(),
        }
    }

    /// What was waited for has come: the next wait begins.
    pub(crate) fn came(&mut self) {
        if (1..TURNS).contains(&self.left) {
            self.tries = (self.tries + 1).min(MOST_TRIES);
            if self.tries == MOST_TRIES {
                self.next_pause = FIRST_PAUSE;
            }
        }
        self.left = if self.has_company && self.paused == 0 { TURNS } else { 0 };
        self.paused = self.paused.saturating_sub(1);
    }

    /// It has not come yet: has the task polled again after a turn of the runtime, if it is to look again. What is not
    /// even `expected` is not looked for for long.
    pub(crate) fn again(&mut self, expected: impl FnOnce() -> bool, cx: &mut Context<'_>) {
        if self.takes_turn(expected) {
            let is_early = self.left + YIELDS >= TURNS;
            if is_early || !self.turns.wait(cx) {
                // A task that yields is woken after the runtime has looked at sockets and timers.
                let turn = pin!(tokio::task::yield_now());
                let _ = turn.poll(cx);
            }
        }
    }

    fn takes_turn(&mut self, expected: impl FnOnce() -> bool) -> bool {
        if self.left == 0 {
            return false;
        }
        if self.left + FIRST_TURNS <= TURNS && !expected() {
            // Neither was it in vain.
            self.left = 0;
            return false;
        }
        self.left -= 1;
        if self.left == 0 {
            self.note_vain();
            return false;
        }
        true
    }

    fn note_vain(&mut self) {
        self.tries -= 1;
        if self.tries == 0 {
            self.tries = TRIES;
            self.paused = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(MOST_PAUSE);
            self.turns = Turns::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    /// How many turns a wait takes in vain.
    fn in_vain(spin: &mut Spin, is_expected: bool) -> u32 {
        spin.came();
        let mut turns = 0;
        while spin.takes_turn(|| is_expected) {
            turns += 1;
        }
        turns
    }

    /// A wait that ends after so many turns, and whether it got that far.
    fn rewarded_after(spin: &mut Spin, turns: u32) -> bool {
        spin.came();
        (0..turns).all(|_| spin.takes_turn(|| true))
    }

    fn spin() -> Spin {
        Spin::new(2)
    }

    /// Whether a wait in vain spins at all.
    fn tries(spin: &mut Spin) -> bool {
        in_vain(spin, true) > 0
    }

    #[test]
    fn a_wait_takes_so_many_turns_and_then_sleeps_until_something_comes() {
        let mut spin = spin();
        assert!(!spin.takes_turn(|| true), "nothing has come yet");
        assert_eq!(in_vain(&mut spin, true), TURNS - 1);
        assert!(!spin.takes_turn(|| true));
        assert_eq!(in_vain(&mut spin, true), TURNS - 1);
    }

    /// Spins in vain, with a runtime, for one wait; panics if a turn does not come back.
    async fn turn_in_vain(spin: &mut Spin) {
        spin.came();
        let turns = poll_fn(|cx| {
            spin.again(|| true, cx);
            if spin.left == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(Duration::from_secs(60), turns).await.expect("each turn ends by itself");
    }

    #[test]
    fn turns_of_either_kind_come_back_on_any_runtime_and_leave_nothing_when_they_are_given_up() {
        use tokio::runtime::Builder;

        for (mut runtime, are_events) in
            [(Builder::new_current_thread(), false), (Builder::new_multi_thread(), cfg!(unix))]
        {
            let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
            let turning = runtime.spawn(async move {
                let mut spin = spin();
                for _ in 1..TRIES {
                    turn_in_vain(&mut spin).await;
                    assert_eq!(spin.turns.are_events(), are_events);
                }
                turn_in_vain(&mut spin).await;
                assert!(!spin.turns.are_events(), "given up for a while");
                assert!(!tries(&mut spin));
            });
            runtime.block_on(turning).unwrap();
        }
    }

    #[test]
    fn what_is_not_expected_is_looked_for_once_more_only_and_that_counts_for_nothing() {
        let mut spin = spin();
        assert!((0..1000).all(|_| in_vain(&mut spin, false) == FIRST_TURNS));
        assert_eq!(in_vain(&mut spin, true), TURNS - 1);
    }

    #[test]
    fn nobody_spins_on_a_single_core() {
        let mut spin = Spin::new(1);
        assert!((0..1000).all(|_| in_vain(&mut spin, true) == 0));
    }

    #[test]
    fn what_is_always_in_vain_is_soon_a_rare_try() {
        const WAITS: usize = 10_000;
        let mut spin = spin();
        let mut tried = || (0..WAITS).filter(|_| tries(&mut spin)).count();
        let (at_first, later) = (tried(), tried());
        assert!(at_first < WAITS / 50, "{at_first} of {WAITS}");
        assert!((WAITS / 100..WAITS / 50).contains(&later), "it is still tried: {later} of {WAITS}");
    }

    #[test]
    fn what_is_worth_it_again_is_noticed_with_the_next_try_and_pauses_are_short_again() {
        let mut spin = spin();
        (0..10_000).for_each(|_| _ = tries(&mut spin));
        let slept = (0..=MOST_PAUSE).take_while(|_| !rewarded_after(&mut spin, 5)).count();
        assert!(slept <= MOST_PAUSE as usize, "it is not tried again");
        assert!((0..1000).all(|_| rewarded_after(&mut spin, 5)), "nor goes on");
        while tries(&mut spin) {}
        // This one slept as well.
        let more = (0..=MOST_PAUSE).take_while(|_| !tries(&mut spin)).count();
        assert_eq!(1 + more, FIRST_PAUSE as usize);
    }

    #[test]
    fn it_goes_on_while_it_is_worth_it_every_other_time_and_not_where_it_is_less() {
        const WAITS: u32 = 20_000;
        let share_of_tries = |worth: u32, of: u32| {
            let mut spin = spin();
            let is_tried = |wait: &u32| if wait % of < worth { rewarded_after(&mut spin, 9) } else { tries(&mut spin) };
            (0..WAITS).filter(is_tried).count() * 100 / WAITS as usize
        };
        let shares = [(1, 2), (2, 3), (1, 3), (1, 4)].map(|(worth, of)| share_of_tries(worth, of));
        assert!(shares[0] == 100 && shares[1] == 100 && shares[2] < 25 && shares[3] < 10, "{shares:?} %");
    }

    /// Without a runtime a turn is nothing but another poll.
    #[test]
    fn a_turn_wakes_the_task_and_a_sleep_does_not() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU32, Ordering};
        use std::task::{Wake, Waker};

        #[derive(Default)]
        struct Count(AtomicU32);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (woken, mut spin) = (Arc::new(Count::default()), spin());
        let waker = Waker::from(Arc::clone(&woken));
        spin.came();
        for _ in 0..2 * TURNS {
            spin.again(|| true, &mut Context::from_waker(&waker));
        }
        assert_eq!(woken.0.load(Ordering::SeqCst), TURNS - 1);
    }
}
