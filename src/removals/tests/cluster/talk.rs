//! Connections, and what nodes say on them.

use super::*;

impl Cluster {
    pub(super) fn connect_any(&mut self) {
        let Some(node) = self.pick(&self.running()) else { return };
        let others: Vec<usize> = self.lists[node].iter().copied().filter(|other| *other != node).collect();
        if let Some(other) = self.pick(&others) {
            self.connect(node, other);
        }
    }

    pub(super) fn connect_if_listed(&mut self, node: usize, other: usize) {
        if node != other && self.nodes[node].is_some() && self.lists[node].contains(&other) {
            self.connect(node, other);
        }
    }

    pub(super) fn connect(&mut self, node: usize, other: usize) {
        let is_dialled = self.connections.iter().any(|(id, c)| c.nodes == [node, other] && self.has_end(*id, 0));
        let is_cut = self.cut.contains(&(node.min(other), node.max(other)));
        if is_dialled || is_cut || self.nodes[other].is_none() {
            return;
        }
        let ends = [self.node(node).me.clone(), self.node(other).me.clone()];
        let id = self.next_id();
        self.note(|| format!("n{node} dials n{other}: connection {id}"));
        let connection = Connection {
            ends,
            nodes: [node, other],
            queues: Default::default(),
            is_counted: [false, false],
            is_gone: [false, false],
            is_broken: false,
            is_up: false,
            replied: None,
        };
        self.connections.insert(id, connection);
        self.hello(id);
    }

    pub(super) fn hello_any(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().filter(|id| self.has_end(*id, 0)).collect();
        if let Some(id) = self.pick(&ids) {
            self.hello(id);
        }
    }

    pub(super) fn hello(&mut self, id: u64) {
        let news = self.news(id, 0);
        let node = self.connections[&id].nodes[0];
        let asked = self.node(node).removals.tick();
        self.send(id, 0, Message::Hello(news, asked));
    }

    /// What this end has to tell the other.
    pub(super) fn news(&mut self, id: u64, end: usize) -> News {
        let (node, peer) = (self.connections[&id].nodes[end], self.connections[&id].ends[1 - end].clone());
        let is_heard = self.connections[&id].is_counted[end];
        let report = self.report(node);
        let removals = &self.node(node).removals;
        let lacking = if is_heard { removals.lacking(&peer, 300) } else { Lacking::Nothing };
        News { report, relays: removals.relays(&peer), lacking }
    }

    pub(super) fn report(&mut self, node: usize) -> Report {
        let bug = self.bug;
        let mut report = self.node(node).removals.report();
        if bug == Some(Bug::LinksAreNotReported) {
            report.links = Arc::new([]);
        }
        report
    }

    pub(super) fn send(&mut self, id: u64, from: usize, message: Message) {
        if let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.is_broken) {
            connection.queues[1 - from].push_back(message);
        }
    }

    pub(super) fn deliver_any(&mut self) -> Result<(), String> {
        let ends = self.connections.keys().flat_map(|id| [(*id, 0), (*id, 1)]);
        let ends: Vec<(u64, usize)> =
            ends.filter(|(id, end)| self.has_end(*id, *end) && !self.connections[id].queues[*end].is_empty()).collect();
        let Some((id, end)) = self.pick(&ends) else { return Ok(()) };
        self.deliver(id, end)
    }

    pub(super) fn deliver(&mut self, id: u64, end: usize) -> Result<(), String> {
        let connection = self.connections.get_mut(&id).unwrap();
        let Some(message) = connection.queues[end].pop_front() else { return Ok(()) };
        let (node, peer) = (connection.nodes[end], connection.ends[1 - end].clone());
        self.note(|| format!("n{node} gets from {:?} on {id}: {}", peer.name, brief(&message)));
        match message {
            Message::Hello(news, asked) => {
                let replied = self.connections[&id].replied;
                self.take_in(id, 1, &news, replied);
                let reply = self.news(id, 1);
                let tick = self.node(node).removals.tick();
                self.connections.get_mut(&id).unwrap().replied = Some(tick);
                self.send(id, 1, Message::HelloReply(reply, asked, news.report.seen));
            }
            Message::HelloReply(news, asked, had) => {
                self.take_in(id, 0, &news, Some(asked));
                if self.node(node).removals.is_even(&peer, &had, &news.report.seen, &news.lacking) {
                    self.connections.get_mut(&id).unwrap().is_up = true;
                } else {
                    self.hello(id);
                }
            }
            Message::Remove(record, known, asked) => {
                let of = match &record.what {
                    What::One { scope: Scope::Keys(keys), .. } => keys.first().map_or(0, number),
                    _ => self.below(KEYS),
                };
                self.eager = Some((node, of));
                let voids = self.bug != Some(Bug::FlightsAreNotVoided);
                if self.node(node).apply(&record, voids) != Noted::Beyond {
                    let version = self.node(node).removals.version();
                    let report = (version != known).then(|| self.report(node));
                    self.send(id, 1, Message::Acknowledged(version, report, record.span.clone(), asked));
                }
            }
            Message::Acknowledged(version, report, span, asked) => {
                let removals = &mut self.node(node).removals;
                report.inspect(|report| removals.heard(report, Some(asked)));
                removals.acknowledged(&peer, version, &span);
            }
            Message::Get(fetch, of, spans) => self.serve(id, fetch, of, &spans),
            Message::Answer(fetch, value) => return self.land(node, fetch, value),
        }
        if self.below(2) == 0 {
            self.drain(node);
        }
        Ok(())
    }

    /// An event is a tenth of a second: what a question carries is remembered for ten.
    pub(super) fn moment(&self) -> Moment {
        Moment::START + Duration::from_millis(100 * self.now)
    }

    pub(super) fn drain(&mut self, node: usize) {
        let now = self.moment();
        let (node, mut filled) = (self.node(node), 0);
        node.removals.forget_carried(now);
        node.removals.drain();
        for filler in node.removals.fillers() {
            node.apply(&filler, true);
            filled += 1;
        }
        self.counts.filled += filled;
    }

    /// Takes in what a hello or its reply says.
    pub(super) fn take_in(&mut self, id: u64, end: usize, news: &News, asked: Option<Tick>) {
        let (node, peer) = (self.connections[&id].nodes[end], self.connections[&id].ends[1 - end].clone());
        let is_new = !std::mem::replace(&mut self.connections.get_mut(&id).unwrap().is_counted[end], true);
        let (bug, mut adopted) = (self.bug, 0);
        let node = self.node(node);
        if is_new {
            node.removals.open(&peer);
        }
        for report in &news.relays {
            node.removals.heard(report, None);
        }
        node.removals.heard(&news.report, asked);
        match &news.lacking {
            Lacking::Nothing => {}
            Lacking::Records(records) => {
                let voids = bug != Some(Bug::FlightsAreNotVoided);
                for record in records {
                    node.apply(record, voids);
                }
            }
            Lacking::BehindReach(reaches) => {
                node.removals.begin_adopting(reaches);
                node.void_and_drop(None, true);
                node.removals.adopt(reaches);
                adopted = 1;
            }
        }
        self.counts.adoptions += adopted;
    }
}

fn brief(message: &Message) -> String {
    match message {
        Message::Hello(news, _) => format!("hello with {}", brief_news(news)),
        Message::HelloReply(news, ..) => format!("reply with {}", brief_news(news)),
        Message::Remove(record, ..) => format!("remove {} {:?}", record.span.last, record.what),
        Message::Acknowledged(version, report, span, _) => {
            format!("acknowledged {} at version {version}, report: {}", span.last, report.is_some())
        }
        Message::Get(id, of, spans) => format!("get {id} of k{of} with {} removals", spans.len()),
        Message::Answer(id, value) => format!("answer {id} (began {})", value.began),
    }
}

fn brief_news(news: &News) -> String {
    match &news.lacking {
        Lacking::Nothing => String::from("nothing"),
        Lacking::Records(records) => {
            let spans = records
                .iter()
                .map(|record| format!("{}:{}..={}", record.span.origin.name, record.span.first, record.span.last));
            spans.collect::<Vec<_>>().join(", ")
        }
        Lacking::BehindReach(reaches) => format!("behind {reaches:?}"),
    }
}
