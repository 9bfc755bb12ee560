//! Gets, and the flights that they start or join.

use super::*;

impl Cluster {
    pub(super) fn get_any(&mut self) -> Result<(), String> {
        let Some(node) = self.pick(&self.running()) else { return Ok(()) };
        let of = self.below(KEYS);
        self.get(node, of)
    }

    pub(super) fn get(&mut self, node: usize, of: usize) -> Result<(), String> {
        let id = self.next_id();
        let now = self.now;
        let all = 0..self.removals.len();
        let outside = all.clone().filter(|called| self.is_outside(node, *called)).collect();
        let has_seen =
            |called: &usize| self.nodes[node].as_ref().unwrap().removals.has_seen(&self.removals[*called].span);
        let unseen = all.filter(|called| !has_seen(called)).collect();
        self.gets.insert(id, Started { at: now, outside, unseen });
        if let Some(value) = self.node(node).store.get(&of).cloned() {
            self.note(|| format!("n{node} has k{of} (began {})", value.began));
            return self.judge(node, of, id, &value);
        }
        let members: Vec<usize> = self.lists[node].iter().copied().collect();
        // The owner, or now and then a stand-in.
        let owner = if self.below(3) == 0 { self.pick(&members).unwrap() } else { members[of % members.len()] };
        let asks = |c: &Connection| c.nodes == [node, owner] && c.is_up;
        let over = self.connections.iter().find(|(id, c)| asks(c) && self.has_end(**id, 0)).map(|(id, _)| *id);
        let over = over.filter(|id| {
            let peer = &self.connections[id].ends[1];
            self.nodes[node].as_ref().unwrap().removals.is_level(peer)
        });
        match over {
            Some(connection) => self.fetch(node, of, connection, id),
            None => self.load(node, of, Waiter::Get(id)),
        }
        Ok(())
    }

    pub(super) fn fetch(&mut self, node: usize, of: usize, connection: u64, get: u64) {
        let is_fetch = |kind| matches!(kind, Kind::Fetch { .. });
        if self.join(node, of, Waiter::Get(get), is_fetch) {
            return;
        }
        let id = self.next_id();
        let peer = self.connections[&connection].ends[1].clone();
        let travels = self.bug != Some(Bug::NothingTravels);
        let node = self.node(node);
        let flight =
            Flight { key: of, kind: Kind::Fetch { connection }, is_voided: false, waiters: vec![Waiter::Get(get)] };
        node.flights.insert(id, flight);
        let spans = node.removals.covering(&group(), &key(of), &peer);
        self.send(connection, 0, Message::Get(id, of, if travels { spans } else { Vec::new() }));
    }

    pub(super) fn load(&mut self, node: usize, of: usize, waiter: Waiter) {
        if self.join(node, of, waiter, |kind| matches!(kind, Kind::Load { .. })) {
            return;
        }
        let (id, began) = (self.next_id(), self.now);
        let flight = Flight { key: of, kind: Kind::Load { began }, is_voided: false, waiters: vec![waiter] };
        self.node(node).flights.insert(id, flight);
        self.note(|| format!("n{node} begins to load k{of}"));
    }

    pub(super) fn join(&mut self, node: usize, of: usize, waiter: Waiter, fits: impl Fn(Kind) -> bool) -> bool {
        let mut flights = self.node(node).flights.values_mut();
        let flight = flights.find(|flight| flight.key == of && !flight.is_voided && fits(flight.kind));
        flight.map(|flight| flight.waiters.push(waiter)).is_some()
    }

    pub(super) fn serve(&mut self, connection: u64, fetch: u64, of: usize, spans: &[Span]) {
        self.counts.carried += u64::from(!spans.is_empty());
        let node = self.connections[&connection].nodes[1];
        let now = self.moment();
        let server = self.node(node);
        if server.removals.carried(&group(), &key(of), spans, now) {
            server.void_and_drop(Some(of), true);
            server.removals.carried_out(&group(), &key(of), spans, now);
        }
        match server.store.get(&of).cloned() {
            Some(value) => self.answer(node, Waiter::Peer { connection, fetch }, &value),
            None => self.load(node, of, Waiter::Peer { connection, fetch }),
        }
    }

    pub(super) fn answer(&mut self, node: usize, waiter: Waiter, value: &Value) {
        let Waiter::Peer { connection, fetch } = waiter else { return };
        let excused = (0..self.removals.len()).filter(|called| self.is_outside(node, *called));
        let excused = value.excused.iter().copied().chain(excused).collect();
        if self.has_end(connection, 1) {
            self.send(connection, 1, Message::Answer(fetch, Value { began: value.began, excused }));
        }
    }

    pub(super) fn land_any(&mut self) -> Result<(), String> {
        let Some(node) = self.pick(&self.running()) else { return Ok(()) };
        let loads = self.node(node).flights.iter().filter(|(_, flight)| matches!(flight.kind, Kind::Load { .. }));
        let loads: Vec<u64> = loads.map(|(id, _)| *id).collect();
        let Some(id) = self.pick(&loads) else { return Ok(()) };
        let Kind::Load { began } = self.node(node).flights[&id].kind else { return Ok(()) };
        self.land(node, id, Value { began, excused: BTreeSet::new() })
    }

    pub(super) fn land(&mut self, node: usize, id: u64, value: Value) -> Result<(), String> {
        let Some(flight) = self.node(node).flights.remove(&id) else { return Ok(()) };
        let (of, voided) = (flight.key, flight.is_voided);
        self.note(|| format!("n{node} lands k{of} (began {}, voided: {voided})", value.began));
        for waiter in flight.waiters {
            match waiter {
                Waiter::Get(get) => self.judge(node, of, get, &value)?,
                Waiter::Peer { .. } => self.answer(node, waiter, &value),
            }
        }
        if !voided {
            self.node(node).store.insert(of, value);
        }
        Ok(())
    }

    pub(super) fn evict_any(&mut self) {
        let Some(node) = self.pick(&self.running()) else { return };
        let of = self.below(KEYS);
        self.node(node).store.remove(&of);
    }
}
