//! What happens to nodes, lists and connections.

use super::*;

impl Cluster {
    pub(super) fn start(&mut self, node: usize) {
        self.counts.restarts += 1;
        let incarnation = Incarnation(self.below(1 << 30) as u64);
        let me = Origin::new(name(node), incarnation);
        let mut removals = Removals::new(me.clone(), self.limits);
        let list = self.lists[node].clone();
        removals.list(list.iter().map(|other| name(*other)));
        self.note(|| format!("n{node} starts as {incarnation:?}, lists {list:?}"));
        self.nodes[node] = Some(Node { removals, me, list, store: BTreeMap::new(), flights: BTreeMap::new() });
    }

    pub(super) fn start_any(&mut self) {
        let down: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_none()).collect();
        if let Some(node) = self.pick(&down) {
            self.start(node);
        }
    }

    pub(super) fn kill_any(&mut self) {
        let Some(node) = self.pick(&self.running()) else { return };
        self.note(|| format!("n{node} is killed"));
        self.nodes[node] = None;
        for called in self.removals.iter_mut().filter(|called| called.by == node && called.is_open()) {
            called.lost = true;
        }
        let of_it: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.nodes.contains(&node)).map(|(id, _)| *id).collect();
        of_it.into_iter().for_each(|id| self.break_one(id));
    }

    pub(super) fn list_any(&mut self) {
        let node = self.below(self.nodes.len());
        let list: BTreeSet<usize> = (0..self.nodes.len()).filter(|_| self.below(4) > 0).collect();
        self.set_list(node, list);
    }

    pub(super) fn set_list(&mut self, node: usize, mut list: BTreeSet<usize>) {
        self.counts.lists += 1;
        list.insert(node);
        self.note(|| format!("n{node} lists {list:?}"));
        self.lists[node].clone_from(&list);
        if let Some(of) = &mut self.nodes[node] {
            of.list.clone_from(&list);
            of.removals.list(list.iter().map(|other| name(*other)));
            let dialled = self.connections.iter().filter(|(_, c)| c.nodes[0] == node && !list.contains(&c.nodes[1]));
            let dialled: Vec<u64> = dialled.map(|(id, _)| *id).collect();
            dialled.into_iter().for_each(|id| self.break_one(id));
        }
    }

    pub(super) fn cut_any(&mut self) {
        let (a, b) = (self.below(self.nodes.len()), self.below(self.nodes.len()));
        if a != b {
            self.cut_or_mend(a, b);
        }
    }

    pub(super) fn cut_or_mend(&mut self, a: usize, b: usize) {
        let link = (a.min(b), a.max(b));
        if !self.cut.remove(&link) {
            self.cut.insert(link);
            self.note(|| format!("n{a} and n{b} are cut off from each other"));
            let over = |c: &Connection| c.nodes == [a, b] || c.nodes == [b, a];
            let over: Vec<u64> = self.connections.iter().filter(|(_, c)| over(c)).map(|(id, _)| *id).collect();
            over.into_iter().for_each(|id| self.break_one(id));
        }
    }

    pub(super) fn break_any(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        if let Some(id) = self.pick(&ids) {
            self.break_one(id);
        }
    }

    pub(super) fn break_one(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.is_broken) else { return };
        connection.is_broken = true;
        self.counts.breaks += 1;
        // What is in the buffers of an end is still read there, or some of it.
        for end in 0..2 {
            let length = self.connections[&id].queues[end].len();
            let kept = self.below(length + 1);
            self.connections.get_mut(&id).unwrap().queues[end].truncate(kept);
        }
        let nodes = self.connections[&id].nodes;
        self.note(|| format!("connection {id} ({nodes:?}) breaks"));
    }

    pub(super) fn notice_any(&mut self) {
        let broken: Vec<u64> = self.connections.iter().filter(|(_, c)| c.is_broken).map(|(id, _)| *id).collect();
        let Some(id) = self.pick(&broken) else { return };
        let end = self.below(2);
        self.notice(id, end);
    }

    pub(super) fn notice(&mut self, id: u64, end: usize) {
        let is_there = self.has_end(id, end);
        let connection = self.connections.get_mut(&id).unwrap();
        connection.is_gone[end] = true;
        let (node, other) = (connection.nodes[end], connection.ends[1 - end].clone());
        let was_counted = std::mem::take(&mut connection.is_counted[end]);
        if connection.is_gone == [true, true] {
            self.connections.remove(&id);
        }
        if !is_there {
            return;
        }
        self.note(|| format!("n{node} notices the end of connection {id}"));
        if was_counted {
            self.node(node).removals.close(&other);
        }
        let flights = &mut self.node(node).flights;
        let failed = flights.extract_if(.., |_, flight| flight.kind == Kind::Fetch { connection: id });
        let failed: Vec<Flight> = failed.map(|(_, flight)| flight).collect();
        for flight in failed {
            for waiter in flight.waiters {
                self.load(node, flight.key, waiter);
            }
        }
    }
}
