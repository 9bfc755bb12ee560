//! Who belongs to the cluster, and which of them are worth asking.
//!
//! [`Members`] is the list of the nodes, checked and put in order. Lists that say the same, in whatever order, with or
//! without repetitions, with or without this node, make equal `Members`; nodes compare theirs by
//! [`fingerprint`](Members::fingerprint). [`Health`] is what one peer has shown of itself lately.
//!
//! What must hold: health never has a say in who the members are, or the nodes' placements would differ.
//!
//! Nothing here opens a connection, resolves a name or reads a clock: time and jitter are handed in.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::error::ConfigError;
use crate::key::protocol_hash;
use crate::member::{Member, NodeName};
use crate::placement::{MAX_MEMBERS, Placement};
use crate::time::Moment;

/// The nodes of a cluster, this one among them: checked, each of them once, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members {
    sorted: Vec<Member>,
    /// This node's place in `sorted`.
    own: usize,
}

impl Members {
    /// Puts a list in order and checks it. The list need not name this node, but if it does, it must say what is so.
    pub(crate) fn new(listed: impl IntoIterator<Item = Member>, own: &Member) -> Result<Self, ConfigError> {
        let mut members: Vec<Member> = listed.into_iter().collect();
        if members.is_empty() {
            return Err(ConfigError::NoPeers);
        }
        members.iter().try_for_each(|member| check_against_self(member, own))?;
        members.push(own.clone());
        let sorted = normalized(members)?;
        let place = sorted.partition_point(|member| member.name < own.name);
        Ok(Self { sorted, own: place })
    }

    /// The cluster of this node alone. It checks nothing: a node without peers needs no address to be reached by.
    pub(crate) fn alone(own: &Member) -> Self {
        Self { sorted: vec![own.clone()], own: 0 }
    }

    /// The members in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.sorted.iter()
    }

    /// How many there are: at least this node.
    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The place among the members of the one of this name.
    pub(crate) fn index_of(&self, name: &NodeName) -> Option<usize> {
        self.sorted.binary_search_by(|member| member.name.cmp(name)).ok()
    }

    /// This node's place among the members, as [`Placement`] counts them.
    pub(crate) fn own_index(&self) -> usize {
        self.own
    }

    /// All that nodes have to agree on: addresses are each node's own view.
    pub(crate) fn names_and_weights(&self) -> Vec<(NodeName, u32)> {
        self.sorted.iter().map(|member| (member.name.clone(), member.weight)).collect()
    }

    /// A number that is equal on nodes that list the same names and weights, and all but surely differs on others.
    ///
    /// It is the protocol's hash of the members in the order of their names, each as its name, the byte 0xff, and the
    /// weight as 32 bits, little-endian. No UTF-8 has that byte in it, so no two lists read the same.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut text = Vec::new();
        for Member { name, weight, .. } in &self.sorted {
            text.extend_from_slice(name.as_str().as_bytes());
            text.push(0xff);
            text.extend_from_slice(&weight.to_le_bytes());
        }
        protocol_hash(&text)
    }

    /// What a peer that lists `theirs`, in any order, sees differently.
    pub(crate) fn differences(&self, theirs: &[(NodeName, u32)]) -> Differences {
        let mut theirs: BTreeMap<&NodeName, u32> = theirs.iter().map(|(name, weight)| (name, *weight)).collect();
        let mut found = Differences::default();
        for Member { name, weight, .. } in &self.sorted {
            match theirs.remove(name) {
                None => found.only_here.push(name.clone()),
                Some(their_weight) if their_weight != *weight => found.other_weight.push(name.clone()),
                Some(_) => {}
            }
        }
        found.only_there = theirs.into_keys().cloned().collect();
        found
    }
}

/// Where this node's membership and a peer's differ, each list in the order of the names.
///
/// While they differ, the two may send a key to different owners, and load it twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Differences {
    /// Nodes that this node lists and the peer does not.
    pub only_here: Vec<NodeName>,
    /// Nodes that the peer lists and this node does not.
    pub only_there: Vec<NodeName>,
    /// Nodes that both list, with different weights.
    pub other_weight: Vec<NodeName>,
}

impl Placement {
    /// The placement of a cluster of these nodes, listed in any order: what each of them works out for itself.
    ///
    /// ```
    /// use peerage::{Member, Placement};
    ///
    /// let before = Placement::of(["10.0.0.1:7400", "10.0.0.2:7400"])?;
    /// assert_eq!(before.slots_of("10.0.0.1:7400") + before.slots_of("10.0.0.2:7400"), 65_536);
    ///
    /// let big = Member::new("10.0.0.2:7400").weight(3);
    /// let after = Placement::of([Member::new("10.0.0.1:7400"), big])?;
    /// assert!(after.slots_of("10.0.0.2:7400") > before.slots_of("10.0.0.2:7400"));
    /// # Ok::<(), peerage::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails where a node given this list would: on an empty list, an invalid member, or two that conflict.
    pub fn of(members: impl IntoIterator<Item = impl Into<Member>>) -> Result<Self, ConfigError> {
        let listed: Vec<Member> = members.into_iter().map(Into::into).collect();
        let own = listed.first().cloned().ok_or(ConfigError::NoPeers)?;
        Ok(Self::new(&Members::new(listed, &own)?.names_and_weights()))
    }
}

/// Checks what can be said of a member by itself.
pub(crate) fn check_member(member: &Member) -> Result<(), ConfigError> {
    let Member { name, address, weight } = member;
    if !(1..=NodeName::MAX_LEN).contains(&name.as_str().len()) {
        return Err(ConfigError::InvalidName { name: name.to_string() });
    }
    if !(1..=Member::MAX_WEIGHT).contains(weight) {
        return Err(ConfigError::InvalidWeight { name: name.clone(), weight: *weight });
    }
    if !is_address(address) {
        return Err(ConfigError::InvalidAddress { address: address.to_string() });
    }
    if address.parse::<SocketAddr>().is_ok_and(|parsed| parsed.ip().is_unspecified()) {
        return Err(ConfigError::UnspecifiedAddress { address: address.to_string() });
    }
    Ok(())
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port))
}

/// A name or an IPv4 address, or an IPv6 address in brackets. Whether a name resolves is not looked at, only that
/// nothing in it could be read as another part of a URI.
fn is_host(text: &str) -> bool {
    if let Some(inside) = text.strip_prefix('[') {
        return inside.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let forbidden = |c: char| !c.is_ascii_graphic() || r"/\?#@:[]".contains(c);
    !text.is_empty() && !text.contains(forbidden)
}

fn is_port(text: &str) -> bool {
    // Digits alone: parsing would also take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A list that names this node must give it the address and weight that it was built with; one that has its address
/// must give it its name. The latter is what happens to who names a node, but lists its address only.
fn check_against_self(listed: &Member, own: &Member) -> Result<(), ConfigError> {
    let is_self = listed.name == own.name || listed.address == own.address;
    if !is_self || listed == own {
        return Ok(());
    }
    Err(ConfigError::DifferentSelf { name: own.name.clone(), listed: describe(listed), own: describe(own) })
}

fn describe(Member { name, address, weight }: &Member) -> String {
    format!("{address} (named {name:?}, weight {weight})")
}

/// Each member once, in the order of the names, if the list makes sense.
fn normalized(mut members: Vec<Member>) -> Result<Vec<Member>, ConfigError> {
    members.iter().try_for_each(check_member)?;
    members.sort_by(|a, b| (&a.name, &a.address, a.weight).cmp(&(&b.name, &b.address, b.weight)));
    members.dedup();
    check_names_differ(&members)?;
    check_addresses_differ(&members)?;
    if members.len() > MAX_MEMBERS {
        return Err(ConfigError::TooManyMembers { len: members.len(), limit: MAX_MEMBERS });
    }
    Ok(members)
}

fn check_names_differ(sorted: &[Member]) -> Result<(), ConfigError> {
    match sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(ConfigError::ConflictingMember { name: pair[0].name.clone() }),
        None => Ok(()),
    }
}

fn check_addresses_differ(members: &[Member]) -> Result<(), ConfigError> {
    let mut by_address = BTreeMap::new();
    for Member { name, address, .. } in members {
        if let Some(first) = by_address.insert(address, name) {
            let (first, second) = (first.clone(), name.clone());
            return Err(ConfigError::SharedAddress { address: address.to_string(), first, second });
        }
    }
    Ok(())
}

/// The pause after a first failure, before jitter. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause after a failure, before jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The shortest pause after a failure: the first one, at its luckiest. Not even a message from the peer shortens it, or
/// a peer that can send but not be reached would have us try as fast as it sends.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The pause before looking again at a peer that answers, but not what we would like. Only its restart changes that.
const SLOW_PAUSE: Duration = Duration::from_secs(5);

/// Whether a peer is worth asking, by what it has shown of itself.
///
/// A peer that failed stays unusable until a try has succeeded: tries are made for their own sake, at
/// [`retry_at`](Self::retry_at), and no get pays for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health(State);

#[derive(Clone, Debug, Default)]
enum State {
    /// Not tried yet: as good as up, until shown otherwise.
    #[default]
    Connecting,
    Up,
    Down(Down),
    Draining {
        retry_at: Moment,
    },
    Refused {
        retry_at: Moment,
        why: Arc<str>,
    },
}

#[derive(Clone, Debug)]
struct Down {
    /// When the first of the failures in a row was.
    since: Moment,
    /// When the last was.
    failed_at: Moment,
    /// How many in a row.
    failures: u32,
    retry_at: Moment,
    why: Arc<str>,
}

impl Health {
    /// Whether requests should be sent to the peer.
    pub(crate) fn usable(&self) -> bool {
        matches!(self.0, State::Connecting | State::Up)
    }

    /// The peer answered, and takes requests.
    pub(crate) fn on_up(&mut self) {
        self.0 = State::Up;
    }

    /// A connection failed, or could not be made. `jitter` is from 0 up to, but not including, 1.
    pub(crate) fn on_failure(&mut self, now: Moment, jitter: f64, why: impl Into<Arc<str>>) {
        let (since, failures) = match &self.0 {
            State::Down(down) => (down.since, down.failures.saturating_add(1)),
            _ => (now, 1),
        };
        let retry_at = now + pause(failures, jitter);
        self.0 = State::Down(Down { since, failed_at: now, failures, retry_at, why: why.into() });
    }

    /// The peer said that it is shutting down. Its end will show as a failure, and its return as a message; if neither
    /// is noticed, a later look will tell.
    pub(crate) fn on_draining(&mut self, now: Moment) {
        if matches!(self.0, State::Down(_)) {
            // Its goodbye was overtaken by its end: what there is to wait for now is its return.
            return;
        }
        self.on_found_draining(now);
    }

    /// The peer answered a try, and said that it is shutting down: it is there, whatever was known of it before, and
    /// asking again soon would get the same answer.
    pub(crate) fn on_found_draining(&mut self, now: Moment) {
        self.0 = State::Draining { retry_at: now + SLOW_PAUSE };
    }

    /// The peer is there, but is none of ours: it belongs to another cluster, speaks no version that we do, has another
    /// name, or does not answer as a node does.
    pub(crate) fn on_refused(&mut self, now: Moment, why: impl Into<Arc<str>>) {
        self.0 = State::Refused { retry_at: now + SLOW_PAUSE, why: why.into() };
    }

    /// A message came in from the peer: if it was down, it is back, and the next try need not wait.
    pub(crate) fn on_inbound(&mut self, now: Moment) {
        if let State::Down(down) = &mut self.0 {
            down.retry_at = down.retry_at.min(now.max(down.failed_at + SHORTEST_PAUSE));
        }
    }

    /// When to try the peer again, if it is one that has to be tried.
    pub(crate) fn retry_at(&self) -> Option<Moment> {
        match &self.0 {
            State::Connecting | State::Up => None,
            State::Down(Down { retry_at, .. }) | State::Draining { retry_at } | State::Refused { retry_at, .. } => {
                Some(*retry_at)
            }
        }
    }

    /// For how long the peer has been down, if it is.
    pub(crate) fn down_for(&self, now: Moment) -> Option<Duration> {
        match &self.0 {
            State::Down(down) => Some(now.since(down.since)),
            _ => None,
        }
    }

    /// The state as statistics show it.
    pub(crate) fn state(&self) -> PeerState {
        match &self.0 {
            State::Connecting => PeerState::Connecting,
            State::Up => PeerState::Up,
            State::Down(down) => PeerState::Down { why: Arc::clone(&down.why) },
            State::Draining { .. } => PeerState::Draining,
            State::Refused { why, .. } => PeerState::Refused { why: Arc::clone(why) },
        }
    }
}

/// How long to wait after that many failures in a row: between half of the full pause and all of it, so that nodes that
/// lost a peer together do not come back to it together.
fn pause(failures: u32, jitter: f64) -> Duration {
    debug_assert!((0.0..1.0).contains(&jitter), "jitter {jitter} is outside of [0, 1)");
    let doublings = failures.saturating_sub(1).min(16);
    let full = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
    full.mul_f64(0.5 + jitter / 2.0)
}

/// What this node thinks of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// Nothing was sent to it yet. It counts as reachable until shown otherwise.
    Connecting,
    /// It answers.
    Up,
    /// It cannot be reached, and is tried again and again; its keys are asked for elsewhere.
    Down {
        /// What the last try failed with.
        why: Arc<str>,
    },
    /// It is shutting down: it still answers what it has, and takes no new requests.
    Draining,
    /// It answers, but is not the peer that is listed: it belongs to another cluster, speaks another version of the
    /// protocol, goes by another name, or answers a hello with something else.
    Refused {
        /// What it said, or what is wrong with that.
        why: Arc<str>,
    },
}

#[cfg(test)]
mod tests;
