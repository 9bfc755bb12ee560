//! What nodes tell each other of removals: reports, records, and what questions carry.
//!
//! What must hold: a record that this node cannot read in whole is refused, since it could not keep the promise. Counts
//! are within limits, whatever a peer sends.
//!
//! It does not know what follows from any of it.

use std::sync::Arc;

use crate::message::{Ack, Incarnation, News, Refusal, Reply, Scope};
use crate::removals::{Lacking, Link, MAX_ABOVE, Origin, Record, Report, Seen, Span, What};

use super::parts::{check_count, group_in, invalid, key_in, key_out, keys_in, name_in};
use super::proto;
use super::proto::one::Scope as WireScope;
use super::proto::record::What as WireWhat;

/// So many reports, links of one, or lines of a vector are read: several times what a node of ours sends.
const MAX_LINES: usize = 1 << 14;

impl From<News> for (Vec<proto::Report>, Vec<proto::Record>, Vec<proto::Mark>) {
    fn from(news: News) -> Self {
        let reports = news.reports.iter().map(report_out).collect();
        match news.lacking {
            Lacking::Nothing => (reports, Vec::new(), Vec::new()),
            Lacking::Records(records) => {
                (reports, records.iter().map(|record| record_out(record)).collect(), Vec::new())
            }
            Lacking::BehindReach(reaches) => {
                let mark = |(origin, number): &(Origin, u64)| mark_out(origin, *number, Vec::new());
                (reports, Vec::new(), reaches.iter().map(mark).collect())
            }
        }
    }
}

pub(super) fn news_in(
    reports: &[proto::Report],
    records: Vec<proto::Record>,
    behind: &[proto::Mark],
) -> Result<News, Refusal> {
    check_lines("reports", reports.len())?;
    check_lines("marks", behind.len())?;
    check_count("records", records.len())?;
    let reports = reports.iter().map(report_in).collect::<Result<_, Refusal>>()?;
    let lacking = if !behind.is_empty() {
        let reach = |mark: &proto::Mark| Ok((origin_in(mark.origin.as_ref())?, mark.number));
        Lacking::BehindReach(behind.iter().map(reach).collect::<Result<_, Refusal>>()?)
    } else if records.is_empty() {
        Lacking::Nothing
    } else {
        Lacking::Records(records.into_iter().map(|record| record_in(record).map(Arc::new)).collect::<Result<_, _>>()?)
    };
    Ok(News { reports, lacking })
}

pub(crate) fn remove_reply(ack: Option<&Ack>) -> proto::RemoveReply {
    let (by, version, report) = ack_out(ack);
    proto::RemoveReply { by, version, report }
}

pub(crate) fn insert_reply(stored: bool, ack: Option<&Ack>) -> proto::InsertReply {
    let (by, version, report) = ack_out(ack);
    proto::InsertReply { stored, by, version, report }
}

impl TryFrom<proto::RemoveReply> for Reply {
    type Error = Refusal;

    fn try_from(message: proto::RemoveReply) -> Result<Self, Refusal> {
        Ok(Self::Remove(ack_in(message.by.as_ref(), message.version, message.report.as_ref())?))
    }
}

impl TryFrom<proto::InsertReply> for Reply {
    type Error = Refusal;

    fn try_from(message: proto::InsertReply) -> Result<Self, Refusal> {
        let ack = ack_in(message.by.as_ref(), message.version, message.report.as_ref())?;
        Ok(Self::Insert { stored: message.stored, ack })
    }
}

fn ack_out(ack: Option<&Ack>) -> (Option<proto::Origin>, u64, Option<proto::Report>) {
    let Some(Ack { by, version, report }) = ack else { return (None, 0, None) };
    (Some(origin_out(by)), *version, report.as_ref().map(report_out))
}

fn ack_in(by: Option<&proto::Origin>, version: u64, report: Option<&proto::Report>) -> Result<Option<Ack>, Refusal> {
    let Some(by) = by else { return Ok(None) };
    Ok(Some(Ack { by: origin_in(Some(by))?, version, report: report.map(report_in).transpose()? }))
}

pub(super) fn span_out(span: &Span) -> proto::Span {
    let last = if span.is_one() { 0 } else { span.last };
    proto::Span { origin: Some(origin_out(&span.origin)), first: span.first, last }
}

pub(super) fn span_in(span: Option<&proto::Span>) -> Result<Span, Refusal> {
    let span = span.ok_or_else(|| invalid("the removal has no identity"))?;
    let (first, last) = (span.first, if span.last == 0 { span.first } else { span.last });
    if first == 0 || last < first || last == u64::MAX {
        return Err(invalid(format!("removals {first} to {last}: they count from 1, upwards")));
    }
    Ok(Span { origin: origin_in(span.origin.as_ref())?, first, last })
}

pub(super) fn spans_in(spans: &[proto::Span]) -> Result<Vec<Span>, Refusal> {
    check_spans(spans.len())?;
    spans.iter().map(|span| span_in(Some(span))).collect()
}

/// Refuses a question with more removals than are read.
pub(super) fn check_spans(count: usize) -> Result<(), Refusal> {
    check_lines("removals with a question", count)
}

fn check_lines(what: &str, count: usize) -> Result<(), Refusal> {
    if count > MAX_LINES {
        return Err(invalid(format!("{count} {what} are more than the {MAX_LINES} that are read")));
    }
    Ok(())
}

fn origin_out(origin: &Origin) -> proto::Origin {
    proto::Origin { name: origin.name.to_string(), incarnation: origin.incarnation.0 }
}

fn origin_in(origin: Option<&proto::Origin>) -> Result<Origin, Refusal> {
    let origin = origin.ok_or_else(|| invalid("there is no origin"))?;
    Ok(Origin::new(name_in(&origin.name)?, Incarnation(origin.incarnation)))
}

fn mark_out(origin: &Origin, number: u64, above: Vec<u64>) -> proto::Mark {
    proto::Mark { origin: Some(origin_out(origin)), number, above }
}

fn report_out(report: &Report) -> proto::Report {
    let link = |link: &Link| proto::Link {
        name: link.name.to_string(),
        incarnation: link.incarnation.map(|incarnation| incarnation.0),
        listed: link.is_listed,
        open: link.is_open,
    };
    proto::Report {
        of: Some(origin_out(&report.of)),
        version: report.version,
        links: report.links.iter().map(link).collect(),
        seen: report.seen.lines().map(|(origin, mark, above)| mark_out(origin, mark, above.collect())).collect(),
        dead: report.dead.iter().map(|incarnation| incarnation.0).collect(),
    }
}

fn report_in(report: &proto::Report) -> Result<Report, Refusal> {
    check_lines("links", report.links.len())?;
    check_lines("marks", report.seen.len())?;
    check_lines("dead runs", report.dead.len())?;
    let link = |link: &proto::Link| {
        Ok(Link {
            name: name_in(&link.name)?,
            incarnation: link.incarnation.map(Incarnation),
            is_listed: link.listed,
            is_open: link.open,
        })
    };
    Ok(Report {
        of: origin_in(report.of.as_ref())?,
        version: report.version,
        links: report.links.iter().map(link).collect::<Result<_, Refusal>>()?,
        seen: seen_in(&report.seen)?,
        dead: report.dead.iter().copied().map(Incarnation).collect(),
    })
}

fn seen_in(marks: &[proto::Mark]) -> Result<Seen, Refusal> {
    let mut seen = Seen::default();
    for mark in marks {
        let origin = origin_in(mark.origin.as_ref())?;
        if mark.above.len() > MAX_ABOVE || mark.number == u64::MAX || mark.above.contains(&u64::MAX) {
            return Err(invalid("a line of a vector has more numbers, or larger ones, than one can have"));
        }
        seen.adopt(&origin, mark.number);
        for number in &mark.above {
            seen.note(&Span::one(origin.clone(), *number));
        }
    }
    Ok(seen)
}

fn record_out(record: &Record) -> proto::Record {
    let what = match &record.what {
        What::One { group, scope } => {
            let scope = match scope {
                Scope::Keys(keys) => WireScope::Keys(proto::Keys { keys: keys.iter().map(key_out).collect() }),
                Scope::Tag(tag) => WireScope::Tag(key_out(tag)),
                Scope::Group => WireScope::WholeGroup(proto::WholeGroup {}),
            };
            WireWhat::One(proto::One { group: group.to_string(), scope: Some(scope) })
        }
        What::Groups(groups) => {
            WireWhat::Groups(proto::Groups { names: groups.iter().map(ToString::to_string).collect() })
        }
        What::Everything => WireWhat::Everything(proto::Everything {}),
    };
    proto::Record { span: Some(span_out(&record.span)), what: Some(what) }
}

fn record_in(record: proto::Record) -> Result<Record, Refusal> {
    let unknown = || invalid("the removal says not what to remove, or in a way that this node does not know");
    let span = span_in(record.span.as_ref())?;
    let what = match record.what.ok_or_else(unknown)? {
        WireWhat::One(one) => {
            let scope = match one.scope.ok_or_else(unknown)? {
                WireScope::Keys(keys) => Scope::Keys(keys_in(&keys.keys)?),
                WireScope::Tag(tag) => Scope::Tag(key_in(&tag)?),
                WireScope::WholeGroup(_) => Scope::Group,
            };
            What::One { group: group_in(&one.group)?, scope }
        }
        WireWhat::Groups(groups) => {
            check_count("groups", groups.names.len())?;
            What::Groups(groups.names.iter().map(|group| group_in(group)).collect::<Result<_, _>>()?)
        }
        WireWhat::Everything(_) => What::Everything,
    };
    Ok(Record { span, what })
}
