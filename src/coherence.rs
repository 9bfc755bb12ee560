//! This node's part in removals: their state under its lock, and what has to be done in which order around it.
//!
//! A removal is applied in three steps, whoever it comes from: its tombstones are set, so that whatever is asked from
//! now on carries it; then flights are voided and entries dropped, under the locks of their shards; then it counts as
//! applied, and may be acknowledged and passed on. What a step needs is there when it begins, so any number of threads
//! may apply the same removal at once.
//!
//! It knows no groups and no peers: what holds entries is behind [`Holders`], what others say is handed in.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::Notify;

use crate::key::Key;
use crate::member::NodeName;
use crate::message::{Ack, News, Scope};
use crate::planted::{Bug, is_planted};
use crate::removals::{Lacking, Limits, Noted, Origin, Record, Removals, Report, Seen, Span, Standing, Tick, What};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::time::Moment;

/// About how many bytes of records a hello carries.
const RECORDS_BYTES: usize = 256 << 10;

/// What holds entries and flights: the groups of a node.
pub(crate) trait Holders: Send + Sync + 'static {
    /// Voids the flights that have begun and drops the entries of one group. A group that is not there (yet) has none.
    fn take_out(&self, group: &str, scope: &Scope);

    /// The same for all groups, whole.
    fn take_all_out(&self);
}

/// The removals of one node.
pub(crate) struct Coherence {
    me: Origin,
    state: Mutex<Removals>,
    /// They hold this.
    holders: Weak<dyn Holders>,
    /// Whether there are tombstones: what the way of a get looks at.
    loud: AtomicBool,
    /// Changes with whatever a receipt could wait for.
    news: Notify,
}

impl Coherence {
    pub(crate) fn new(me: Origin, holders: Weak<dyn Holders>) -> Self {
        Self {
            state: Mutex::new(Removals::new(me.clone(), Limits::default())),
            me,
            holders,
            loud: AtomicBool::new(false),
            news: Notify::new(),
        }
    }

    /// Numbers a removal that begins here and now, and applies it here.
    pub(crate) fn remove(&self, group: &Arc<str>, scope: Scope) -> Arc<Record> {
        let record = self.issue(group, scope);
        self.apply(&record);
        record
    }

    /// Numbers a removal; whoever asked for it applies it.
    pub(crate) fn issue(&self, group: &Arc<str>, scope: Scope) -> Arc<Record> {
        self.state().issue(Arc::clone(group), scope)
    }

    /// Applies a removal, unless it has been; says whether it may be acknowledged.
    pub(crate) fn apply(&self, record: &Arc<Record>) -> bool {
        self.apply_by(record, || self.take_out(&record.what)).0
    }

    /// Applies a removal by what `take_out` does, unless it has been; says whether it may be acknowledged, and what
    /// came of it if it was new.
    pub(crate) fn apply_by<T>(&self, record: &Arc<Record>, take_out: impl FnOnce() -> T) -> (bool, Option<T>) {
        if is_planted(Bug::ClearByNumber) && self.state().outnumbers(record) {
            self.change(|state| state.settle(record));
            return (true, None);
        }
        let noted = self.change(|state| {
            let noted = state.begin(record);
            if is_planted(Bug::NoTombstone) {
                state.drop_tombstones();
            }
            noted
        });
        if noted == Noted::Known {
            return (true, None);
        }
        let outcome = take_out();
        if noted == Noted::New {
            self.change(|state| {
                state.settle(record);
                // With nobody else there is nothing to wait for.
                if state.is_alone() {
                    state.drain();
                }
            });
        }
        (noted == Noted::New, Some(outcome))
    }

    fn take_out(&self, what: &What) {
        // Without holders there is nothing to be held.
        let Some(holders) = self.holders.upgrade() else { return };
        match what {
            What::One { group, scope } => holders.take_out(group, scope),
            What::Groups(groups) => groups.iter().for_each(|group| holders.take_out(group, &Scope::Group)),
            What::Everything => holders.take_all_out(),
        }
    }

    /// Whether a question may have to carry removals. To be asked after its flight has begun: a removal that is
    /// applied later voids that.
    pub(crate) fn is_loud(&self) -> bool {
        self.loud.load(Ordering::SeqCst)
    }

    /// How many tombstones there are.
    pub(crate) fn tombstones(&self) -> usize {
        self.state().tombstones()
    }

    /// The removals that a question for a key has to carry to this peer.
    pub(crate) fn covering(&self, group: &Arc<str>, key: &Key, peer: &Origin) -> Vec<Span> {
        if !self.is_loud() {
            return Vec::new();
        }
        self.state().covering(group, key, peer)
    }

    /// A question for a key carries removals: `take_out` voids the key's flights and drops it, unless that has been
    /// done for these. They count as applied to the key once it has: a question that comes meanwhile does it as well.
    pub(crate) fn carry(&self, group: &Arc<str>, key: &Key, removed: &[Span], now: Moment, take_out: impl FnOnce()) {
        if self.change(|state| state.carried(group, key, removed, now)) {
            take_out();
            self.state().carried_out(group, key, removed, now);
        }
    }

    /// Since when this node has carried a removal with its questions for a key, ahead of the removal's turn.
    pub(crate) fn carried_since(&self, group: &str, key: &[u8], span: &Span) -> Option<Moment> {
        self.state().carried_since(group, key, span)
    }

    /// Whether this node has applied all of `span`.
    pub(crate) fn has_applied(&self, span: &Span) -> bool {
        self.state().has_seen(span)
    }

    /// Lets go of what is over.
    pub(crate) fn tend(&self, now: Moment) {
        self.change(|state| {
            state.forget_carried(now);
            if is_planted(Bug::TombstonesExpire) {
                state.drop_tombstones();
            }
        });
        self.drain();
    }

    /// The version of a peer's links that is known here, for a message that asks for an acknowledgement.
    pub(crate) fn version_of(&self, peer: &Origin) -> u64 {
        self.state().version_of(peer)
    }

    /// What an acknowledgement says of this node to a remover that knows `version` of its links: all of it if that is
    /// not the version now, or it would have to be asked for in a second round trip.
    pub(crate) fn ack(&self, version: u64) -> Ack {
        let state = self.state();
        let report = (state.version() != version).then(|| state.report());
        Ack { by: self.me.clone(), version: state.version(), report }
    }

    /// A peer has applied a removal, and says so to what left at `asked`. Says whether that settles it for that node; if
    /// not, it should be asked for a report: its links may have changed, or it may be known here in a run that has ended.
    pub(crate) fn acknowledged(&self, ack: &Ack, span: &Span, asked: Tick) -> bool {
        let is_settled = self.change(|removals| {
            if let Some(report) = ack.report.as_ref().filter(|report| report.of == ack.by) {
                hear(removals, report, Some(asked));
            }
            removals.acknowledged(&ack.by, ack.version, span);
            removals.drain();
            removals.is_settled_at(&ack.by.name, span)
        });
        self.news.notify_waiters();
        is_settled
    }

    /// A moment, to be handed to [`take`](Self::take) with the answer to what leaves now.
    pub(crate) fn tick(&self) -> Tick {
        self.state().tick()
    }

    /// What this node tells `peer` of removals; nothing that it may lack, if it is not known yet.
    pub(crate) fn news_for(&self, peer: Option<&Origin>) -> News {
        let removals = self.state();
        let mut reports = vec![removals.report()];
        let Some(peer) = peer else { return News { reports, lacking: Lacking::Nothing } };
        reports.extend(removals.relays(peer));
        News { reports, lacking: removals.lacking(peer, RECORDS_BYTES) }
    }

    /// Takes in what `from` tells; `asked` is the moment at which the question left that this answers. If this node has
    /// to drop everything, `part` parts it first from all others, who may lack what it is about to claim.
    pub(crate) fn take(&self, from: &Origin, news: &News, asked: Option<Tick>, part: impl FnOnce()) {
        self.change(|state| {
            for report in &news.reports {
                hear(state, report, asked.filter(|_| report.of == *from));
            }
        });
        match &news.lacking {
            Lacking::Nothing => {}
            Lacking::Records(records) => {
                for record in records {
                    self.apply(record);
                }
            }
            Lacking::BehindReach(reaches) => self.adopt(reaches, part),
        }
        self.drain();
        self.news.notify_waiters();
    }

    /// Drops all that is held, and voids what is under way. No removal asks for it, and nobody is told.
    pub(crate) fn let_go(&self) {
        self.take_out(&What::Everything);
    }

    fn adopt(&self, reaches: &[(Origin, u64)], part: impl FnOnce()) {
        tracing::debug!("removals were missed that are forgotten by now: dropping what is cached");
        self.change(|state| state.begin_adopting(reaches));
        part();
        self.take_out(&What::Everything);
        self.change(|state| state.adopt(reaches));
    }

    fn drain(&self) {
        let fillers = self.change(|state| {
            state.drain();
            state.fillers()
        });
        for filler in fillers {
            self.apply(&filler);
        }
    }

    /// Whether a peer may be asked, by what was heard of it.
    pub(crate) fn is_level(&self, peer: &Origin) -> bool {
        self.state().is_level(peer)
    }

    /// Whether a hello has made this node and a peer even; see [`Removals::is_even`].
    pub(crate) fn is_even(&self, peer: &Origin, had: &Seen, has: &Seen, lacked: &Lacking) -> bool {
        self.state().is_even(peer, had, has, lacked)
    }

    /// From now on, these are listed.
    pub(crate) fn list(&self, names: impl IntoIterator<Item = NodeName>) {
        self.change(|state| {
            state.list(names);
            state.drain();
        });
        self.news.notify_waiters();
    }

    /// A stream with this node is there, for as long as what this returns is.
    pub(crate) fn meet(self: &Arc<Self>, peer: Origin) -> Presence {
        self.change(|state| state.open(&peer));
        Presence { coherence: Arc::clone(self), peer }
    }

    /// Whom a removal that begins now is for: everybody else, and whether it is there because of lists.
    pub(crate) fn told(&self) -> BTreeMap<NodeName, bool> {
        self.state().told()
    }

    /// How everybody stands to removals of one call.
    pub(crate) fn standing(&self, spans: &[Span], told: &BTreeMap<NodeName, bool>) -> BTreeMap<NodeName, Standing> {
        let state = self.state();
        let mut standings = BTreeMap::new();
        for span in spans {
            let mut standing = state.standing(span, told);
            if is_planted(Bug::OwnListOnly) {
                let own = state.own_list();
                standing.retain(|name, _| own.contains(name));
            }
            for (name, standing) in standing {
                let worst = standings.entry(name).or_insert(standing);
                if *worst == Standing::Done {
                    *worst = standing;
                }
            }
        }
        standings
    }

    /// Resolves once something holds that depends on what is known here.
    pub(crate) async fn until(&self, mut holds: impl FnMut() -> bool) {
        loop {
            // Listened for before it is looked at: news in between is not missed.
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            if holds() {
                return;
            }
            news.await;
        }
    }

    /// Resolves while there are tombstones.
    pub(crate) async fn until_loud(&self) {
        self.until(|| self.is_loud()).await;
    }

    /// Changes the state, and what is to be seen of it without its lock.
    fn change<T>(&self, change: impl FnOnce(&mut Removals) -> T) -> T {
        let mut state = self.state();
        let outcome = change(&mut state);
        let is_loud = !state.is_quiet();
        let was_loud = self.loud.swap(is_loud, Ordering::SeqCst);
        drop(state);
        if is_loud && !was_loud {
            self.news.notify_waiters();
        }
        outcome
    }

    fn state(&self) -> MutexGuard<'_, Removals> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes in a report; see [`Removals::heard`].
fn hear(state: &mut Removals, report: &Report, asked: Option<Tick>) {
    let before = is_planted(Bug::AcknowledgedForEver).then(|| state.seen_by_any(&report.of.name));
    state.heard(report, asked);
    before.inspect(|before| state.presume(&report.of, before));
}

/// A stream between this node and another, as far as removals go: that node is one of everybody while it is there.
pub(crate) struct Presence {
    coherence: Arc<Coherence>,
    peer: Origin,
}

impl Presence {
    pub(crate) fn peer(&self) -> &Origin {
        &self.peer
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.coherence.change(|state| {
            state.close(&self.peer);
            state.drain();
        });
        self.coherence.news.notify_waiters();
    }
}
