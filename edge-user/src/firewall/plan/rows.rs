//! The rules as people read them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{PlanLimit, PlanLimits, PlanScope, ROW_MANAGEMENT, drafts::Draft};
use crate::config::{Config, Content, Line, Management, Service, Zone};

/// Who wrote a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleOrigin {
    /// Implied by `[management]`, a service or a listener.
    Implied,
    /// A `[[firewall.rule]]`.
    File,
}

/// A rule as people read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Its slot in the counters; `None` for management, which is counted by its reason.
    pub id: Option<u32>,
    /// Its name.
    pub name: String,
    /// Where it applies.
    pub zone: Zone,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    pub protocol: String,
    /// Port ranges, both ends included.
    pub ports: Vec<(u16, u16)>,
    /// Our addresses; empty: any.
    pub to: Vec<IpAddr>,
    /// Source prefixes, those of named sets among them. Empty: any, unless `partners` is set.
    pub from: Vec<IpNet>,
    /// Names of the sets that the prefixes come from.
    pub from_sets: Vec<String>,
    /// Also from the addresses of allowed partners, as they are at any time.
    pub partners: bool,
    /// `pass` or `drop`.
    pub action: String,
    /// Number in `RuleSet::limits`, counted from 1, and what stands there.
    pub limits: Option<PlanLimits>,
    /// What the payload must look like.
    pub content: Content,
    /// Who wrote it.
    pub origin: RuleOrigin,
    /// The service that implies it.
    pub service: Option<Service>,
    /// What it is for.
    pub why: String,
    /// The line of the file that made it.
    pub line: Option<Line>,
}

/// Ports for people.
pub(super) fn ports_text(ports: &[(u16, u16)]) -> String {
    let one = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ports.iter().map(one).collect::<Vec<_>>().join(" ")
}

impl RuleRow {
    /// The ports: `5061`, `50000-59999`, none for protocols without.
    pub fn ports_text(&self) -> String {
        ports_text(&self.ports)
    }

    /// Our addresses, or `any`.
    pub fn to_text(&self) -> String {
        if self.to.is_empty() {
            return "any".to_owned();
        }
        self.to.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// Whom it is for: `partners`, names of sets, prefixes, or `any`.
    pub fn from_text(&self) -> String {
        let mut words: Vec<String> = self.from.iter().map(ToString::to_string).collect();
        if self.partners {
            words.insert(0, "partners".to_owned());
        }
        if words.is_empty() { "any".to_owned() } else { words.join(" ") }
    }

    /// The limits in words; empty when there are none.
    pub fn limits_text(&self) -> String {
        let mut words = Vec::new();
        let mut scope = |scope: &PlanScope, of: &str| {
            let all = [("new", scope.new), ("packets", scope.packets), ("bytes", scope.bytes)];
            for (unit, PlanLimit { per_second, .. }) in all {
                if per_second > 0 {
                    words.push(format!("{per_second} {unit}/s {of}"));
                }
            }
        };
        if let Some(limits) = &self.limits {
            scope(&limits.source, "a source");
            scope(&limits.total, "in all");
        }
        words.join(", ")
    }

    /// What made it, for people: `[service.av] (line 41)`, `[[firewall.rule]] (line 90)`.
    pub fn made_by(&self) -> String {
        made_by(self.service, self.name == ROW_MANAGEMENT, self.line)
    }
}

/// What made a row, for people.
pub(super) fn made_by(service: Option<Service>, management: bool, line: Option<Line>) -> String {
    let section = match service {
        Some(service) => format!("[{}]", service.section()),
        None if management => "[management]".to_owned(),
        None => "[[firewall.rule]]".to_owned(),
    };
    match line {
        Some(Line(line)) => format!("{section} (line {line})"),
        None => section,
    }
}

/// The row of management.
pub(super) fn management_row(management: &Management) -> RuleRow {
    RuleRow {
        id: None,
        name: ROW_MANAGEMENT.to_owned(),
        zone: management.zone,
        protocol: "tcp".to_owned(),
        ports: management.ports.iter().map(|port| (*port, *port)).collect(),
        to: Vec::new(),
        from: management.from.clone(),
        from_sets: Vec::new(),
        partners: false,
        action: "pass".to_owned(),
        limits: None,
        content: Content::Any,
        origin: RuleOrigin::Implied,
        service: None,
        why: "administrators always reach the appliance".to_owned(),
        line: line(management.line),
    }
}

fn line(line: Line) -> Option<Line> {
    (line.0 > 0).then_some(line)
}

/// The rows, management's first; `rules`: id and limits of each draft.
pub(super) fn rows(
    config: &Config,
    drafts: &[Draft],
    rules: &[(u32, Option<PlanLimits>)],
) -> Vec<RuleRow> {
    let others = drafts.iter().zip(rules).map(|(draft, (id, limits))| RuleRow {
        id: Some(*id),
        name: draft.name.clone(),
        zone: draft.zone,
        protocol: draft.protocol.to_string(),
        ports: draft.ports.clone(),
        to: draft.to.clone(),
        from: draft.from.prefixes.clone(),
        from_sets: draft.from.sets.clone(),
        partners: draft.from.partners,
        action: if draft.drop { "drop" } else { "pass" }.to_owned(),
        limits: *limits,
        content: draft.content,
        origin: draft.origin(),
        service: draft.service,
        why: draft.why.clone(),
        line: line(draft.line),
    });
    std::iter::once(management_row(&config.management)).chain(others).collect()
}
