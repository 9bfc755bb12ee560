//! Removals as they are called, and whether what a get returns breaks their promise.

use super::*;
use crate::removals::Why;

impl Cluster {
    pub(super) fn remove_any(&mut self) {
        let Some(node) = self.pick(&self.running()) else { return };
        let of = self.below(KEYS + 1);
        self.remove(node, (of < KEYS).then_some(of));
    }

    pub(super) fn remove(&mut self, node: usize, of: Option<usize>) {
        let (now, voids) = (self.now, self.bug != Some(Bug::FlightsAreNotVoided));
        let scope = of.map_or(Scope::Group, |of| Scope::Keys(vec![key(of)]));
        let caller = self.node(node);
        let record = caller.removals.issue(group(), scope);
        caller.apply(&record, voids);
        let span = record.span.clone();
        self.note(|| format!("n{node} removes {of:?} as number {}", span.last));
        let outside = BTreeSet::new();
        self.removals.push(Called { span, by: node, key: of, at: now, complete: None, lost: false, outside });
        self.counts.called += 1;
        let dialled = self.connections.iter().filter(|(id, c)| c.nodes[0] == node && self.has_end(**id, 0));
        let dialled: Vec<u64> = dialled.map(|(id, _)| *id).collect();
        for id in dialled {
            let peer = self.connections[&id].ends[1].clone();
            let removals = &mut self.node(node).removals;
            let (known, asked) = (removals.version_of(&peer), removals.tick());
            self.send(id, 0, Message::Remove(Arc::clone(&record), known, asked));
        }
    }

    pub(super) fn look_at_receipts(&mut self) {
        for index in 0..self.removals.len() {
            if !self.removals[index].is_open() {
                continue;
            }
            let everybody = self.everybody(self.removals[index].by);
            let outside = (0..self.nodes.len()).filter(|node| !everybody.contains(node));
            self.removals[index].outside.extend(outside);
            let Called { by, span, .. } = self.removals[index].clone();
            let caller = self.nodes[by].as_ref().expect("it would be lost");
            let is_complete = match self.bug {
                Some(Bug::OnlyTheCallersList) => caller
                    .list
                    .iter()
                    .filter(|other| **other != by)
                    .all(|other| !caller.removals.known.pending(&span).contains_key(&name(*other))),
                Some(Bug::AcknowledgementsSurvive) => {
                    let pending = caller.removals.known.pending(&span);
                    pending.values().all(|why| *why == Why::Restarted)
                }
                _ => caller.removals.is_complete(&span),
            };
            if is_complete {
                self.removals[index].complete = Some(self.now);
                self.counts.completed += 1;
                self.note(|| format!("number {} of n{by} is complete", span.last));
            }
        }
    }

    /// Everybody, as it is: whom `from` lists or has a stream with, and so on.
    pub(super) fn everybody(&self, from: usize) -> BTreeSet<usize> {
        let (mut everybody, mut to_follow) = (BTreeSet::from([from]), vec![from]);
        while let Some(node) = to_follow.pop() {
            let listed = self.nodes[node].iter().flat_map(|of| of.list.iter().copied());
            let is_linked = |id: u64, c: &Connection, end: usize| {
                c.nodes[end] == node && c.is_counted[end] && self.has_end(id, end)
            };
            let ends = self.connections.iter().flat_map(|(id, c)| [(*id, c, 0), (*id, c, 1)]);
            let linked = ends.filter(|(id, c, end)| is_linked(*id, c, *end)).map(|(_, c, end)| c.nodes[1 - end]);
            for other in listed.chain(linked) {
                if everybody.insert(other) {
                    to_follow.push(other);
                }
            }
        }
        everybody
    }

    pub(super) fn is_outside(&self, node: usize, called: usize) -> bool {
        let called = &self.removals[called];
        let has_seen = self.nodes[node].as_ref().is_some_and(|node| node.removals.has_seen(&called.span));
        called.outside.contains(&node) && !has_seen
    }

    pub(super) fn judge(&mut self, node: usize, of: usize, get: u64, value: &Value) -> Result<(), String> {
        let Started { at: started, outside, unseen } = self.gets.remove(&get).expect("each get is answered once");
        self.counts.answers += 1;
        for index in 0..self.removals.len() {
            let called = &self.removals[index];
            if !called.covers(of) || called.complete.is_none_or(|complete| complete >= started) {
                continue;
            }
            // Whoever has seen a removal takes no old copy from those who are excused.
            let is_excused = value.excused.contains(&index) && unseen.contains(&index);
            if is_excused || outside.contains(&index) {
                self.counts.excused += 1;
                continue;
            }
            self.counts.judged += 1;
            if value.began < called.at {
                let called = called.clone();
                let trace = self.trace.join("\n");
                return Err(format!(
                    "n{node} returned k{of} of a load that began at {} to a get of {started}; {called:?}\n{trace}",
                    value.began
                ));
            }
        }
        Ok(())
    }
}
