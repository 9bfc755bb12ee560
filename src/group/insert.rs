//! Inserts: a removal that comes with a value for the key's owner.
//!
//! This node offers the value, and the owner asks for it: see `offers.rs`. An offer that the owner does not take at once
//! is nothing but a removal. The order of two inserts is the owner's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::entry::{Source, Value};
use crate::error::Error;
use crate::flight::Landed;
use crate::key::{HashedKey, KeyRef};
use crate::loader::Loaded;
use crate::message::{After, Answer, Ask, Copy, GetTerms, Insert, Outcome, Reply, Scope};
use crate::peers::Peer;
use crate::receipt::Receipt;
use crate::removals::{Origin, Record, Span};
use crate::shards::{Demand, Keep, Kind, Lead, Look};
use crate::store::{Dropped, Entry, Place};
use crate::tags::Tagged;
use crate::tasks::Work;
use crate::time::Moment;
use crate::transport::{Asker, CallError, Question};
use crate::wakes::Wakes;

use super::inner::Inner;
use super::planted::stores_unasked;
use super::registry::{Limits, Terms};
use super::remove::{ToldWhom, WhyNot, id_of};

/// A value on offer.
#[derive(Debug)]
pub(super) struct Offered<V> {
    loaded: Loaded<V>,
    pub(super) bytes: Bytes,
    born: Moment,
    /// The count of removed tags then.
    since: u64,
}

impl<V: Value> Inner<V> {
    /// Puts a value in its owner's cache, and takes the key out of all others. If the owner does not take it, it is a
    /// removal.
    pub(super) async fn insert(self: &Arc<Self>, key: HashedKey, loaded: Loaded<V>) -> Result<Receipt, Error> {
        if loaded.value.is_none() {
            return self.remove(Scope::Keys(vec![key.key])).await;
        }
        self.check_removal()?;
        self.removals.inserts.one();
        let (until, born, since) = (self.removal_ends(), self.now(), self.shards.tags().now());
        // Encoded here, whoever owns the key: what could not be sent is refused by every node alike.
        let bytes = loaded.value.as_ref().map_or(Ok(Bytes::new()), |value| self.encode(value))?;
        let told = self.context.coherence.told();
        let record = self.context.coherence.issue(&self.name, Scope::Keys(vec![key.key.clone()]));
        let offer = Offering { group: Arc::clone(self), number: record.span.last };
        let tags = loaded.tags.clone();
        self.offers.begin(offer.number, key.clone(), tags, Offered { loaded, bytes, born, since });
        let group = Arc::clone(self);
        self.in_a_task(async move { group.insert_round(&offer, key, record, told, until).await }).await
    }

    async fn insert_round(
        self: &Arc<Self>,
        offer: &Offering<V>,
        key: HashedKey,
        record: Arc<Record>,
        told: ToldWhom,
        until: Moment,
    ) -> Result<Receipt, Error> {
        let view = self.context.peers.view_owned();
        let owner = view.peer(view.owner(key.hash)).cloned();
        let install = || match &owner {
            None => self.install_own(offer.number, &key),
            Some(_) => {
                self.make_way(&key);
                Ok(false)
            }
        };
        let installed = self.context.coherence.apply_by(&record, install).1.unwrap_or(Ok(false));
        let records = [record];
        let others = view.peers().filter(|peer| owner.as_ref().is_none_or(|owner| !Arc::ptr_eq(owner, peer)));
        let telling = self.tell(others, &records, until);
        let asking = self.offer_to(owner.as_ref(), &key, &records, until);
        let (mut why_not, (taken, refused)) = futures::future::join(telling, asking).await;
        why_not.extend(refused);
        let receipt = self.receipt(&records, told, &why_not, until).await;
        Ok(receipt.with_stored(installed? || taken))
    }

    /// Takes out what an insert takes the place of: as a removal does, but for what is on offer.
    fn make_way(&self, key: &HashedKey) {
        self.lag.note(&Scope::Keys(vec![key.key.clone()]), self.now());
        self.shards.remove(key.as_ref());
    }

    /// Puts this node's own offer in its own cache, unless a removal has voided it.
    fn install_own(self: &Arc<Self>, number: u64, key: &HashedKey) -> Result<bool, Error> {
        self.make_way(key);
        let offered = |offer: &Offered<V>| (offer.loaded.clone(), (offer.born, offer.since));
        let Some((loaded, begun)) = self.offers.with(number, key.key.as_bytes(), offered) else { return Ok(false) };
        let Some(entry) = self.own_entry(key, loaded, begun)? else { return Ok(false) };
        self.sweep_at(&entry.life);
        let mut dropped = Dropped::default();
        // Only now, with no removal in between.
        let insert = |_: &_| self.shards.insert(key, entry, Place::Main, &mut dropped);
        let stored = self.offers.with(number, key.key.as_bytes(), insert);
        Ok(stored.unwrap_or(false))
    }

    /// What is kept of a value that is put in the cache, if this node owns the key.
    fn own_entry(&self, key: &HashedKey, loaded: Loaded<V>, begun: (Moment, u64)) -> Result<Option<Entry<V>>, Error> {
        let place = self.context.peers.view().place(key.hash);
        let (landed, keep) = self.settle(loaded, self.now(), begun, place)?;
        let Landed { value, life, tagged, .. } = landed;
        Ok(keep.filter(|_| place == Place::Main).map(|Keep { weight, .. }| Entry { value, weight, life, tagged }))
    }

    /// Another program's insert, which is no node's. Only the owner keeps the value; to anybody else it is a removal.
    pub(super) fn install_from_client(
        self: &Arc<Self>,
        key: &HashedKey,
        value: &Bytes,
        ((time_to_live, refresh_after), tags): Terms,
    ) -> Result<bool, Error> {
        let begun = (self.now(), self.shards.tags().now());
        // Copied, because a slice would keep the whole message that it came in alive.
        let (value, _) = self.decode(Bytes::copy_from_slice(value))?;
        let loaded = Loaded { value: Some(value), time_to_live, refresh_after, tags };
        let entry = self.own_entry(key, loaded, begun)?;
        self.shards.remove(key.as_ref());
        if let Some(entry) = &entry {
            self.sweep_at(&entry.life);
        }
        let mut dropped = Dropped::default();
        let stored = entry.is_some_and(|entry| self.shards.insert(key, entry, Place::Main, &mut dropped));
        self.removals.stored.add(u64::from(stored));
        Ok(stored)
    }

    /// Offers the value to the key's owner, and waits until then. Says whether it was taken, and if the owner has not
    /// applied the removal, why not.
    async fn offer_to(
        self: &Arc<Self>,
        owner: Option<&Arc<Peer>>,
        key: &HashedKey,
        records: &[Arc<Record>; 1],
        until: Moment,
    ) -> (bool, WhyNot) {
        let Some(owner) = owner else { return (false, WhyNot::new()) };
        let span = &records[0].span;
        let limits = |offer: &Offered<V>| (offer.loaded.time_to_live, offer.loaded.refresh_after);
        let Some((time_to_live, refresh_after)) = self.offers.with(span.last, key.key.as_bytes(), limits) else {
            return (false, self.tell([owner].into_iter(), records, until).await);
        };
        let (version, asked) = self.before_telling(owner);
        let insert = Insert {
            id: id_of(span),
            group: Arc::clone(&self.name),
            schema: self.config.schema,
            key: key.key.clone(),
            value: None,
            time_to_live,
            refresh_after,
            // They come with the value.
            tags: Vec::new(),
            version,
        };
        let wait = until.since(self.now());
        let outcome = match self.offer_planted(owner, &insert, wait).await {
            Some(outcome) => outcome,
            None => tokio::time::timeout(wait, owner.call(self.context.peers.request(Ask::Insert(insert)))).await,
        };
        let stored = match outcome {
            Ok(Ok(reply)) => {
                let stored = matches!(reply, Reply::Insert { stored: true, .. });
                if self.told(owner, span, asked, Ok(reply)).is_ok() {
                    return (stored, WhyNot::new());
                }
                stored
            }
            // It is down, or busy, or has no such group: it may still apply the removal.
            Ok(Err(_)) => false,
            Err(_) => return (false, WhyNot::from([(owner.name().clone(), self.no_answer())])),
        };
        (stored, self.tell([owner].into_iter(), records, until).await)
    }

    /// What the owner of a key gets who asks for a value that is offered.
    pub(super) fn offered(&self, number: u64, key: KeyRef<'_>) -> Answer {
        let now = self.now();
        let copy = |offer: &Offered<V>| Copy {
            value: offer.bytes.clone(),
            age: now.since(offer.born),
            left: None,
            until_refresh: None,
            grace: Duration::ZERO,
            loaded: false,
            tags: Tagged::new(0, &offer.loaded.tags).map_or_else(Vec::new, |tagged| tagged.tags().to_vec()),
        };
        let copy = self.offers.with(number, key.bytes, copy);
        Answer { outcome: copy.map_or(Outcome::NotFound, Outcome::Value), held: Duration::ZERO }
    }

    /// Another node's insert: applies the removal, and if this node owns the key takes the value. Says whether it was
    /// kept, and whether the removal may be acknowledged.
    pub(super) fn take_offer(self: Arc<Self>, from: Origin, insert: Insert) -> BoxFuture<'static, (bool, bool)> {
        let Insert { id, group, key, value, time_to_live, refresh_after, .. } = insert;
        let record = Arc::new(Record::one(Span::from(&id), group, Scope::Keys(vec![key.clone()])));
        let key = HashedKey::new(key);
        let take_out = || self.take_out(&Scope::Keys(vec![key.key.clone()]));
        let (is_applied, new) = self.context.coherence.apply_by(&record, take_out);
        if let Some(value) = value.filter(|_| stores_unasked()) {
            let stored = self.store_unasked(&key, &value, (time_to_live, refresh_after));
            return std::future::ready((stored, is_applied)).boxed();
        }
        // What had been applied before is an earlier insert than something that has been applied since.
        if new.is_none() || !is_applied || self.context.check_open().is_err() {
            return std::future::ready((false, is_applied)).boxed();
        }
        async move {
            let stored = self.pull(&from, key, id.number, (time_to_live, refresh_after)).await;
            self.removals.stored.add(u64::from(stored));
            (stored, is_applied)
        }
        .boxed()
    }

    /// Asks for a value that is offered, in a flight, so that a removal that is applied meanwhile voids it.
    async fn pull(self: &Arc<Self>, from: &Origin, key: HashedKey, number: u64, limits: Limits) -> bool {
        let view = self.context.peers.view_owned();
        let now = self.now();
        let Some(peer) = view.peers().find(|peer| *peer.name() == from.name) else { return false };
        if view.place(key.hash) != Place::Main {
            return false;
        }
        let look = self.shards.look_or_join(key.as_ref(), Place::Main, Kind::Fetch, Demand::NONE, now);
        // Or else somebody has it already, or fetches it, and has begun after the removal was applied.
        let Look::Lead(lead, mut wait) = look else { return false };
        let removed = self.context.coherence.covering(&self.name, &key.key, from);
        let (done, stored) = oneshot::channel();
        let limit = self.config.removal_timeout;
        let group = Arc::clone(self);
        let pull = Pull { group, lead, limits, sent: now, until: now + limit, done };
        let terms = GetTerms {
            group: Arc::clone(&self.name),
            schema: self.config.schema,
            time_limit: limit,
            nested: false,
            max_age: None,
        };
        let question = Question { key: key.key, after: After { removed, offered: number }, asker: Box::new(pull) };
        peer.ask(self.context.peers.sender(), terms, &mut std::iter::once(question));
        let landing = wait.landing().await;
        landing.is_ok() && stored.await.unwrap_or(false)
    }
}

/// Takes an offer back when the round is over, however it ends.
struct Offering<V: Value> {
    group: Arc<Inner<V>>,
    number: u64,
}

impl<V: Value> Drop for Offering<V> {
    fn drop(&mut self) {
        self.group.offers.end(self.number);
    }
}

/// A question for an offered value.
struct Pull<V: Value> {
    group: Arc<Inner<V>>,
    lead: Lead<V>,
    limits: Limits,
    sent: Moment,
    until: Moment,
    done: oneshot::Sender<bool>,
}

impl<V: Value> Asker for Pull<V> {
    fn patience(&self) -> Option<Duration> {
        let left = self.until.since(self.group.now());
        (!left.is_zero()).then_some(left)
    }

    fn take(self: Box<Self>, answer: Result<&mut Answer, CallError>, _: &mut Wakes) {
        let (group, answer) = (Arc::clone(&self.group), answer.map(Answer::take));
        // A value may be large, and a codec slow: who brings the answer brings others too.
        group.context.tasks.work(Work::Fetch, async move { (*self).land(answer) });
    }
}

impl<V: Value> Pull<V> {
    fn land(self, answer: Result<Answer, CallError>) {
        let Self { group, lead, limits: (time_to_live, refresh_after), sent, done, .. } = self;
        let Ok(Answer { outcome: Outcome::Value(copy), held }) = answer else {
            return drop(lead.land(Err(Error::Closed), None));
        };
        // It lives from when it was offered, as far as that is known here, and not from the end of its way: that may
        // have been long, and nobody offers it any more.
        let now = group.now();
        let at = now.earlier(now.since(sent).saturating_sub(held));
        let born = at.earlier(copy.age);
        let settled = group.decode(Bytes::copy_from_slice(&copy.value)).and_then(|(value, _)| {
            let loaded = Loaded { value: Some(value), time_to_live, refresh_after, tags: copy.tags };
            group.settle(loaded, at, (born, lead.since()), Place::Main)
        });
        match settled {
            Ok((landed, keep)) => {
                let landed = Landed { source: Source::Main, ..landed };
                group.sweep_at(&landed.life);
                let key = lead.key().clone();
                let (voided, _) = lead.land(Ok(landed), keep.map(|keep| Keep { place: Place::Main, ..keep }));
                // Nobody may wait for it any more.
                let is_kept = !voided && group.shards.peek(key.as_ref(), |_| true).is_some();
                let _ = done.send(is_kept);
            }
            Err(error) => drop(lead.land(Err(error), None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{OnceLock, mpsc};

    use super::*;
    use crate::codec::Codec;
    use crate::error::{BoxError, CodecError};
    use crate::key::Key;
    use crate::{Node, WeakGroup};

    /// What all values of a group have in common.
    #[derive(Default)]
    struct Common {
        group: OnceLock<WeakGroup<Meddling>>,
        dropped: AtomicUsize,
    }

    /// A value that begins a removal when it is dropped.
    #[derive(Clone)]
    struct Meddling(Arc<Common>);

    impl Drop for Meddling {
        fn drop(&mut self) {
            let Some(group) = self.0.group.get().and_then(WeakGroup::upgrade) else { return };
            drop(group.remove("another").now_or_never());
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct OneWay;

    impl Codec<Meddling> for OneWay {
        fn encode(&self, _: &Meddling) -> Result<Bytes, CodecError> {
            Ok(Bytes::from_static(&[0; 200]))
        }

        fn decode(&self, _: Bytes) -> Result<Meddling, CodecError> {
            Err(CodecError::new("nobody sends any"))
        }
    }

    async fn values_that_meddle() -> (u64, usize) {
        const INSERTS: usize = 100;
        let common = Arc::<Common>::default();
        let group = Node::local().group("g").capacity(8 << 10).codec(OneWay);
        let group = group.loader(|_: Key| async { Err::<Meddling, BoxError>("it is only inserted".into()) });
        let group = group.build::<Meddling>().expect("it is valid");
        assert!(common.group.set(group.downgrade()).is_ok());
        for number in 0..INSERTS {
            let receipt =
                group.insert(&number.to_string(), Meddling(Arc::clone(&common))).await.expect("it is applied");
            assert!(receipt.stored());
        }
        // A removal that meets the offer.
        let mut insert = Box::pin(group.insert("k", Meddling(Arc::clone(&common))));
        assert!(insert.as_mut().now_or_never().is_none());
        group.remove("k").await.expect("it is applied").everywhere().expect("there is nobody else");
        assert!(!insert.await.expect("it is applied").stored());
        assert!(group.peek("k").is_none());
        (group.stats().cache.evictions, common.dropped.load(Ordering::SeqCst))
    }

    #[test]
    fn a_value_that_asks_its_group_when_an_insert_drops_it_waits_for_nobody() {
        // A deadlock would be one of a thread: it takes another one to see it.
        let (done, outcome) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
            done.send(runtime.expect("a runtime").block_on(values_that_meddle())).expect("somebody waits");
        });
        let (evictions, dropped) = outcome.recv_timeout(Duration::from_secs(60)).expect("it waits for itself");
        assert!(evictions > 50 && dropped > 100, "{evictions} evictions, {dropped} values dropped");
    }
}
