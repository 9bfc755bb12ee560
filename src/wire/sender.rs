//! Who speaks: the sender of a request, and the hello, which says what else a node has to tell of itself.
//!
//! What must hold: a request may come without a sender, a hello may not. Names are within their limits, and a range of
//! versions is one.
//!
//! It does not know whether the sender is welcome: of this cluster, a member, of a version that we speak.

use std::sync::Arc;

use crate::member::NodeName;
use crate::message::{Hello, Incarnation, Refusal, Sender, Versions};
use crate::placement::MAX_MEMBERS;

use super::news::news_in;
use super::parts::{invalid, name_in, too_long};
use super::proto;

impl From<&Sender> for proto::Sender {
    fn from(sender: &Sender) -> Self {
        Self {
            cluster: sender.cluster.to_string(),
            name: sender.name.to_string(),
            incarnation: sender.incarnation.0,
            min_version: sender.versions.min,
            max_version: sender.versions.max,
        }
    }
}

pub(super) fn sender_in(sender: Option<proto::Sender>) -> Result<Option<Arc<Sender>>, Refusal> {
    let Some(sender) = sender else { return Ok(None) };
    if sender.cluster.len() > NodeName::MAX_LEN {
        return Err(too_long("name of the cluster", sender.cluster.len(), NodeName::MAX_LEN));
    }
    if sender.min_version > sender.max_version {
        return Err(invalid("the sender's lowest version is above its highest"));
    }
    Ok(Some(Arc::new(Sender {
        cluster: Arc::from(sender.cluster),
        name: name_in(&sender.name)?,
        incarnation: Incarnation(sender.incarnation),
        versions: Versions { min: sender.min_version, max: sender.max_version },
    })))
}

impl From<Hello> for proto::Hello {
    fn from(hello: Hello) -> Self {
        let (reports, records, behind) = hello.news.into();
        let members =
            hello.members.iter().map(|(name, weight)| proto::Member { name: name.to_string(), weight: *weight });
        Self {
            sender: Some(proto::Sender::from(&*hello.sender)),
            fingerprint: hello.fingerprint,
            members: members.collect(),
            draining: hello.draining,
            reports,
            records,
            behind,
        }
    }
}

impl TryFrom<proto::Hello> for Hello {
    type Error = Refusal;

    fn try_from(message: proto::Hello) -> Result<Self, Refusal> {
        let sender = sender_in(message.sender)?.ok_or_else(|| invalid("the hello says not who sends it"))?;
        let count = message.members.len();
        if count > MAX_MEMBERS {
            return Err(invalid(format!("{count} members are listed: a cluster has at most {MAX_MEMBERS}")));
        }
        let members = message.members.iter().map(|member| Ok((name_in(&member.name)?, member.weight)));
        Ok(Self {
            sender,
            fingerprint: message.fingerprint,
            members: members.collect::<Result<_, Refusal>>()?,
            draining: message.draining,
            news: news_in(&message.reports, message.records, &message.behind)?,
        })
    }
}
