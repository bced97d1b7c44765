//! What users of ours may do: the nearest policy holds (user, group, domain, everyone), and
//! within one of these the first in the file.

use std::{borrow::Cow, collections::HashMap};

use crate::{
    config::{Group, Rights, UserPattern, UserPolicy},
    domain::Domain,
};

/// A user of ours, as a message names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserName<'a> {
    /// Lower case, unescaped, without parameters; `None`: the domain alone is named.
    name: Option<Cow<'a, str>>,
    domain: &'a Domain,
}

impl<'a> UserName<'a> {
    /// From the user part of a SIP URI. One user has many spellings, and every one of them is
    /// this user: case does not count, nor does escaping, nor parameters.
    pub fn new(user: Option<&'a str>, domain: &'a Domain) -> Self {
        Self { name: user.map(plain).filter(|name| !name.is_empty()), domain }
    }

    /// Its domain.
    pub fn domain(&self) -> &Domain {
        self.domain
    }
}

impl std::fmt::Display for UserName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}@{}", self.domain),
            None => write!(f, "{}", self.domain),
        }
    }
}

/// The user part in one spelling.
fn plain(user: &str) -> Cow<'_, str> {
    let user = user.split(';').next().unwrap_or(user);
    if !user.bytes().any(|b| b == b'%' || b.is_ascii_uppercase() || !b.is_ascii()) {
        return Cow::Borrowed(user);
    }
    let bytes = user.as_bytes();
    let mut text = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = user.get(at + 1..at + 3).filter(|_| byte == b'%');
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                text.push(byte);
                at += 3;
            }
            None => {
                text.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&text).to_lowercase())
}

/// Every user policy.
#[derive(Clone, Debug, Default)]
pub struct Users {
    /// Domain, then name: few domains, many names.
    users: HashMap<Domain, HashMap<Box<str>, Rights>>,
    /// The same, by membership of groups.
    members: HashMap<Domain, HashMap<Box<str>, Rights>>,
    domains: HashMap<Domain, Rights>,
    everyone: Option<Rights>,
}

impl Users {
    pub(super) fn new(policies: &[UserPolicy], groups: &[Group]) -> Self {
        let mut all = Self::default();
        for policy in policies {
            for pattern in &policy.users {
                match pattern {
                    UserPattern::User(name, domain) => {
                        put(&mut all.users, name, domain, policy.rights);
                    }
                    UserPattern::Group(name) => {
                        let group = groups.iter().filter(|group| group.name == *name);
                        for (name, domain) in group.flat_map(|group| &group.users) {
                            put(&mut all.members, name, domain, policy.rights);
                        }
                    }
                    UserPattern::Domain(domain) => {
                        all.domains.entry(domain.clone()).or_insert(policy.rights);
                    }
                    UserPattern::Everyone => {
                        all.everyone.get_or_insert(policy.rights);
                    }
                }
            }
        }
        all
    }

    /// Whether there is no policy at all: everybody federates, and no more.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
            && self.members.is_empty()
            && self.domains.is_empty()
            && self.everyone.is_none()
    }

    /// Whether somebody may no longer be outside who could before.
    pub(super) fn fewer_outside(&self, former: &Self) -> bool {
        let fewer = |user: &UserName<'_>| former.rights(user).outside && !self.rights(user).outside;
        let all = [self, former];
        let of_everyone = |users: &Self| users.everyone.unwrap_or_default().outside;
        let domains = all.into_iter().flat_map(|users| {
            users.domains.keys().chain(users.users.keys()).chain(users.members.keys())
        });
        let names = all
            .into_iter()
            .flat_map(|users| users.users.iter().chain(&users.members))
            .flat_map(|(domain, names)| names.keys().map(move |name| (domain, name)));
        (of_everyone(former) && !of_everyone(self))
            || domains.into_iter().any(|domain| fewer(&UserName { name: None, domain }))
            || names
                .into_iter()
                .any(|(domain, name)| fewer(&UserName { name: Some(Cow::Borrowed(name)), domain }))
    }

    /// What this user may do.
    pub fn rights(&self, user: &UserName<'_>) -> Rights {
        let of = |names: &HashMap<Domain, HashMap<Box<str>, Rights>>| {
            names.get(user.domain)?.get(user.name.as_deref()?).copied()
        };
        of(&self.users)
            .or_else(|| of(&self.members))
            .or_else(|| self.domains.get(user.domain).copied())
            .or(self.everyone)
            .unwrap_or_default()
    }
}

fn put(
    names: &mut HashMap<Domain, HashMap<Box<str>, Rights>>,
    name: &str,
    domain: &Domain,
    rights: Rights,
) {
    let name = plain(name).into_owned().into_boxed_str();
    names.entry(domain.clone()).or_default().entry(name).or_insert(rights);
}
