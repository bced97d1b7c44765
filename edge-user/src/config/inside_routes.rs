//! What `[inside]` says about the way to our servers, besides the list of next hops: `probe`, and
//! `[[inside.route]]`, next hops for some of our domains.

use std::{collections::HashMap, time::Duration};

use toml::Spanned;

use super::{
    findings::Span,
    model::{InsideRoute, InsideRouting, NextHop},
    reader::Section,
    sections::Edge,
    values,
};
use crate::domain::Domain;

/// How often next hops are asked whether they live.
const PROBE: Duration = Duration::from_secs(30);
const MOST: Duration = Duration::from_secs(3600);
/// Routes of one configuration.
const MAX_ROUTES: usize = 1000;

/// `check`: what is checked of every list of next hops.
pub(super) fn routing(
    section: &Section<'_>,
    edge: &Edge,
    check: impl Fn(&[Spanned<NextHop>]),
) -> InsideRouting {
    let probe = section.duration("probe", Duration::ZERO..=MOST, PROBE);
    let mut routes = Vec::new();
    let mut seen = HashMap::new();
    let tables = section.tables("route");
    if let Some(last) = tables.get(MAX_ROUTES) {
        section.sink.error(
            &last.span,
            format!("more than {MAX_ROUTES} routes"),
            "name several domains in one",
        );
    }
    for table in tables {
        table.require("domains", "add domains = [\"b.example\"], which are in edge.domains");
        table.require("next_hops", "add next_hops = [\"srv:_sips._tcp.pool.b.example\"]");
        let domains = table.parsed_list("domains", values::domain);
        check_domains(&table, edge, &domains, &mut seen);
        let next_hops = table.parsed_list("next_hops", values::next_hop);
        check(&next_hops);
        for key in ["domains", "next_hops"] {
            if table.is_empty(key) {
                let message = format!("{key} of this route is empty");
                table.sink.error(&table.key_span(key), message, "name at least one");
            }
        }
        table.finish();
        routes.push(InsideRoute {
            domains: domains.into_iter().map(Spanned::into_inner).collect(),
            next_hops: next_hops.into_iter().map(Spanned::into_inner).collect(),
        });
    }
    InsideRouting { probe: (!probe.is_zero()).then_some(probe), routes }
}

fn check_domains(
    table: &Section<'_>,
    edge: &Edge,
    domains: &[Spanned<Domain>],
    seen: &mut HashMap<Domain, Span>,
) {
    for item in domains {
        let domain = item.get_ref();
        if !edge.domains.iter().any(|ours| ours.get_ref() == domain) {
            table.sink.error(
                &item.span(),
                format!("{domain} is none of our domains"),
                "add it to edge.domains, or take it out here",
            );
        }
        if let Some(before) = seen.insert(domain.clone(), item.span()) {
            let line = table.sink.line(&before);
            table.sink.error(
                &item.span(),
                format!("{domain} has a route already in line {line}"),
                "leave it in one of them, with all its next hops",
            );
        }
    }
}
