//! `[[group]]` and `[[user_policy]]`: what users of ours may do.

use std::collections::{HashMap, HashSet};

use toml::Spanned;

use super::{
    findings::{Fault, Span, quoted},
    media,
    model_federation::{Group, Rights, UserPattern, UserPolicy},
    reader::Section,
    sections::Edge,
};
use crate::domain::Domain;

/// Policies of one configuration.
const MAX_POLICIES: usize = 1000;
/// Members of all groups, and patterns of all policies.
const MAX_USERS: usize = 100_000;

pub(super) fn users(root: &Section<'_>, edge: &Edge) -> (Vec<UserPolicy>, Vec<Group>) {
    let mut named: HashMap<String, Span> = HashMap::new();
    let groups: Vec<Group> = root
        .tables("group")
        .into_iter()
        .filter_map(|section| group(&section, edge, &mut named).inspect(|_| section.finish()))
        .collect();
    let sections = root.tables("user_policy");
    let mut used = HashSet::new();
    let mut first: HashMap<UserPattern, Span> = HashMap::new();
    let mut policies = Vec::new();
    for section in sections {
        let patterns = patterns(&section, edge, &named);
        for pattern in &patterns {
            if let UserPattern::Group(name) = pattern.get_ref() {
                used.insert(name.clone());
            }
            if let Some(before) = first.insert(pattern.get_ref().clone(), pattern.span()) {
                let line = section.sink.line(&before);
                section.sink.warn(
                    &pattern.span(),
                    format!("this stands already in line {line}, which holds"),
                    "take one out",
                );
                first.insert(pattern.get_ref().clone(), before);
            }
        }
        let rights = rights(&section);
        section.finish();
        let users = patterns.into_iter().map(Spanned::into_inner).collect();
        policies.push(UserPolicy { users, rights });
    }
    for (name, span) in named.iter().filter(|(name, _)| !used.contains(*name)) {
        root.sink.warn(
            span,
            format!("no user_policy is for the group {}", quoted(name)),
            "name it in a [[user_policy]], or take it out",
        );
    }
    bounds(root, &policies, &groups);
    (policies, groups)
}

fn bounds(root: &Section<'_>, policies: &[UserPolicy], groups: &[Group]) {
    let members: usize = groups.iter().map(|group| group.users.len()).sum();
    let patterns: usize = policies.iter().map(|policy| policy.users.len()).sum();
    for (key, count, most, what) in [
        ("user_policy", policies.len(), MAX_POLICIES, "user policies"),
        ("user_policy", patterns, MAX_USERS, "users of policies"),
        ("group", members, MAX_USERS, "members of groups"),
    ] {
        if count > most {
            root.sink.error(
                &root.key_span(key),
                format!("{count} {what} are more than {most}"),
                "use patterns such as \"*@contoso.example\"",
            );
        }
    }
}

fn group(section: &Section<'_>, edge: &Edge, named: &mut HashMap<String, Span>) -> Option<Group> {
    section.require("name", "add name = \"sales\"");
    section.require("users", "add users = [\"ann@contoso.example\"]");
    let name = section.parsed("name", group_name);
    let users = section.parsed_list("users", user);
    if section.is_empty("users") {
        section.sink.error(
            &section.key_span("users"),
            "the group has no members",
            "name one, or take the group out",
        );
    }
    let mut members = HashSet::new();
    for member in &users {
        let (name, domain) = member.get_ref();
        check_domain(section, &member.span(), domain, edge);
        if !members.insert((name.to_lowercase(), domain)) {
            section.sink.error(&member.span(), "the member stands here twice", "take one out");
        }
    }
    let name = name?;
    if let Some(first) = named.insert(name.get_ref().clone(), name.span()) {
        let line = section.sink.line(&first);
        section.sink.error(
            &name.span(),
            format!("the group {} stands already in line {line}", quoted(name.get_ref())),
            "give it another name, or join the two",
        );
    }
    let users = users.into_iter().map(Spanned::into_inner).collect();
    Some(Group { name: name.into_inner(), users })
}

fn patterns(
    section: &Section<'_>,
    edge: &Edge,
    groups: &HashMap<String, Span>,
) -> Vec<Spanned<UserPattern>> {
    section.require("users", "add users = [\"*\"], a user, a group or \"*@contoso.example\"");
    if section.is_empty("users") {
        section.sink.error(
            &section.key_span("users"),
            "the policy is for nobody",
            "name users, or take it out",
        );
    }
    let patterns = section.parsed_list("users", pattern);
    for pattern in &patterns {
        match pattern.get_ref() {
            UserPattern::User(_, domain) | UserPattern::Domain(domain) => {
                check_domain(section, &pattern.span(), domain, edge);
            }
            UserPattern::Group(name) if !groups.contains_key(name) => section.sink.error(
                &pattern.span(),
                format!("there is no group {}", quoted(name)),
                "add a [[group]] of this name, or write user@domain",
            ),
            UserPattern::Group(_) | UserPattern::Everyone => {}
        }
    }
    patterns
}

fn check_domain(section: &Section<'_>, span: &Span, domain: &Domain, edge: &Edge) {
    if !edge.domains.iter().any(|ours| ours.get_ref() == domain) {
        section.sink.error(
            span,
            format!("{domain} is none of our own domains, and its users are none of ours"),
            "correct it, or add it to edge.domains",
        );
    }
}

fn rights(section: &Section<'_>) -> Rights {
    let default = Rights::default();
    Rights {
        federation: section.boolean("federation", default.federation),
        public_im: section.boolean("public_im", default.public_im),
        public_av: section.boolean("public_av", default.public_av),
        xmpp: section.boolean("xmpp", default.xmpp),
        outside: section.boolean("outside", default.outside),
        modalities: media::modalities(section),
    }
}

fn group_name(text: &str) -> Result<String, Fault> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(good) {
        return Err(Fault::new(
            format!("{} is no name for a group", quoted(text)),
            "write 1 to 64 letters, digits, hyphens, dots and underscores",
        ));
    }
    Ok(text.to_owned())
}

/// `ann@contoso.example`.
fn user(text: &str) -> Result<(String, Domain), Fault> {
    let fault = |what: String| {
        Fault::new(format!("{} is no user: {what}", quoted(text)), "write \"ann@contoso.example\"")
    };
    let (name, domain) =
        text.rsplit_once('@').ok_or_else(|| fault("there is no @ in it".to_owned()))?;
    let odd = |c: char| c.is_control() || c.is_whitespace() || "@<>\";*".contains(c);
    if name.is_empty() || name.len() > 128 || name.contains(odd) {
        return Err(fault("before the @ stands a name without spaces and signs".to_owned()));
    }
    let domain = domain.parse().map_err(|error| fault(format!("{error}")))?;
    Ok((name.to_owned(), domain))
}

/// A user, a group, `*@domain` or `*`.
fn pattern(text: &str) -> Result<UserPattern, Fault> {
    match (text, text.strip_prefix("*@")) {
        ("*", _) => Ok(UserPattern::Everyone),
        (_, Some(domain)) => domain.parse().map(UserPattern::Domain).map_err(|error| {
            Fault::new(
                format!("{} names no domain: {error}", quoted(text)),
                "write \"*@contoso.example\"",
            )
        }),
        _ if text.contains('@') => user(text).map(|(name, domain)| UserPattern::User(name, domain)),
        _ => group_name(text).map(UserPattern::Group),
    }
}
