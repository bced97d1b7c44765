//! Passwords of remote users: what our servers answered to requests that carried credentials, and
//! who is shut out for it. The credentials themselves are looked at for the name of the account and
//! for nothing else, and are shown to nobody.

use std::{
    collections::HashSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{
    ConnectionId, Event, Output, Peer, Refusal, Side,
    connections::Connection,
    credentials::{Account, account, quoted_value},
    proxy::Proxy,
};
use crate::{
    domain::Domain,
    federation::{Ban, Login, LoginEntry, SavedBans, UserName, first_of_source},
    sip::{HeaderName, Message, Method},
};

const CHALLENGES: [HeaderName; 2] = [HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate];

impl Connection {
    /// Whether somebody is registered on it, and no wrong password came over it.
    fn is_trusted(&self, now: Instant) -> bool {
        self.wrong.is_none() && self.users.iter().any(|user| user.is_registered(now))
    }

    /// Notes what credentials came to.
    fn note_login(&mut self, user: &UserName<'_>, login: Login) {
        let user = user.to_string();
        self.wrong = match (self.wrong.take(), login) {
            (None, Login::Failed) => Some(user),
            (Some(wrong), Login::Failed) if wrong != user => Some(String::new()),
            (Some(wrong), Login::Good) if wrong == user => None,
            (wrong, _) => wrong,
        };
    }
}

impl Proxy {
    /// A remote user's request may go inside: whether it may with the credentials it carries.
    pub(super) fn judge_login(
        &mut self,
        now: Instant,
        (connection, peer): (ConnectionId, &Peer),
        message: &Message,
    ) -> Result<(), Refusal> {
        let Some(account) = self.account(message)? else { return Ok(()) };
        let settings = &self.config.remote.guard;
        match self.guard.request(now, settings, peer.remote.ip(), &account.user()) {
            LoginEntry::Pass => Ok(()),
            LoginEntry::Slow => {
                if let Some(found) = self.connections.get_mut(connection) {
                    found.note_login(&account.user(), Login::Failed);
                }
                Err(Refusal::UserSlowed)
            }
            // Somebody else behind the same address guesses: who is registered goes on.
            LoginEntry::Banned => {
                let found = self.connections.get(connection);
                let goes_on = found.is_some_and(|found| {
                    let user = account.user();
                    found.is_trusted(now) && found.users.iter().any(|own| own.is(now, &user))
                });
                if goes_on { Ok(()) } else { Err(Refusal::Banned) }
            }
        }
    }

    fn account(&self, message: &Message) -> Result<Option<Account>, Refusal> {
        account(message, |domain| self.policy.is_ours(domain))
    }

    /// Our servers answered a remote user's request: a ban, if that is one wrong password too many.
    ///
    /// Only a registration says that a password is right, and that it is wrong: the answer to
    /// anything else may be that of whoever is called. Where a user has not got in yet, that counts
    /// all the same, or passwords would be guessed by calls.
    pub(super) fn note_login(
        &mut self,
        now: Instant,
        id: u64,
        status: u16,
        response: &Message,
    ) -> Option<Ban> {
        let exchange = self.exchanges.get(id).filter(|e| e.remote && e.inbound)?;
        let request = exchange.request.as_ref()?;
        let account = self.account(request).ok()??;
        let user = account.user();
        let (connection, from) = (exchange.from, exchange.from_peer.remote.ip());
        let registers = request.method() == Some(Method::Register);
        let login = match status {
            200..300 if registers => Login::Good,
            401 | 407 if is_a_step(response) => return None,
            401 | 403 | 407 if registers => Login::Failed,
            401 | 407 if !self.guard.knows(now, from, &user) => Login::Failed,
            _ => return None,
        };
        if let Some(found) = self.connections.get_mut(connection) {
            found.note_login(&user, login);
        }
        self.guard.outcome(now, &self.config.remote.guard, from, &user, login)
    }

    /// Closes what comes from a source that is banned: not where somebody is registered and no wrong
    /// password came, since many may share an address.
    pub(super) fn shut_out(&mut self, now: Instant, ban: &Ban, out: &mut Vec<Output>) {
        let seconds = ban.left.as_secs();
        out.push(Output::Event(Event::Banned { source: ban.source, seconds }));
        let there: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                let peer = &connection.peer;
                let there = first_of_source(peer.remote.ip()) == ban.source;
                peer.side == Side::Remote && there && !connection.is_trusted(now)
            })
            .map(|(id, _)| id)
            .collect();
        for connection in there {
            self.close(now, connection, Refusal::Banned, out);
        }
    }

    /// Whether a remote user's connection from there is refused.
    pub fn refuses(&self, now: Instant, remote: IpAddr) -> bool {
        self.guard.is_banned(now, remote)
    }

    /// Sources that are shut out.
    pub fn bans(&self, now: Instant) -> Vec<Ban> {
        self.guard.bans(now)
    }

    /// The ban that an address is under.
    pub fn ban_of(&self, now: Instant, address: IpAddr) -> Option<Ban> {
        let source = first_of_source(address);
        self.guard.bans(now).into_iter().find(|ban| ban.source == source)
    }

    /// Sources that are shut out and have no connection any more: whoever was let stay there is gone,
    /// so that all that comes from them to remote users' ports may be dropped. With the time left.
    pub fn shut_sources(&self, now: Instant) -> Vec<(IpAddr, Duration)> {
        let bans = self.guard.bans(now);
        if bans.is_empty() {
            return Vec::new();
        }
        let remote = self.connections.iter().filter(|(_, c)| c.peer.side == Side::Remote);
        let there: HashSet<IpAddr> =
            remote.map(|(_, c)| first_of_source(c.peer.remote.ip())).collect();
        let gone = bans.into_iter().filter(|ban| !there.contains(&ban.source));
        gone.map(|ban| (ban.source, ban.left)).collect()
    }

    /// Sources that are shut out, for a file. `unix`: the wall clock.
    pub fn save_bans(&self, now: Instant, unix: u64) -> SavedBans {
        self.guard.save(now, unix)
    }

    /// Takes them from a file.
    pub fn restore_bans(&mut self, now: Instant, unix: u64, saved: SavedBans) {
        self.guard.restore(now, unix, &self.config.remote.guard, saved);
    }

    /// Users that are slowed down.
    pub fn slowed_users(&self, now: Instant) -> usize {
        self.guard.slowed(now, &self.config.remote.guard)
    }

    /// Forgets wrong passwords that came from there; tells how many bans that ends.
    pub fn forgive_source(&mut self, now: Instant, prefix: &IpNet) -> usize {
        self.guard.forgive(now, prefix)
    }

    /// Forgets wrong passwords that came for a user; whether there were any.
    pub fn forgive_user(&mut self, name: &str, domain: &Domain) -> bool {
        self.guard.forgive_user(&UserName::new(Some(name), domain))
    }
}

/// Whether a challenge is a step of the way and no "no": the nonce was old (RFC 7616 section 3.3),
/// or the scheme takes more than one message (NTLM and Kerberos, MS-SIPAE).
fn is_a_step(response: &Message) -> bool {
    CHALLENGES.iter().flat_map(|name| response.headers(*name)).any(|challenge| {
        let value = |name| parameter(challenge.value, name);
        value("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true"))
            || value("gssapi-data").is_some_and(|data| !data.is_empty())
    })
}

/// The value of a parameter of a challenge, without its quotes.
fn parameter<'m>(value: &'m [u8], name: &str) -> Option<&'m str> {
    let text = std::str::from_utf8(value).ok()?;
    let mut rest = text.split_once(' ')?.1;
    loop {
        let (own, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            // What is escaped stays so: it is compared, not shown.
            Some(quoted) => quoted_value(quoted)?,
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after.get(..end)?.trim(), after.get(end..)?)
            }
        };
        if own.trim_matches([' ', ',', '\t']).eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::parameter;

    #[test]
    fn parameters_are_read_with_and_without_quotes() {
        let digest = br#"Digest realm="a, username=\"x\"", Username="ann", uri=sip:a , stale=TRUE"#;
        for (name, expected) in [
            ("username", Some("ann")),
            ("realm", Some(r#"a, username=\"x\""#)),
            ("uri", Some("sip:a")),
            ("stale", Some("TRUE")),
            ("nonce", None),
        ] {
            assert_eq!(parameter(digest, name), expected, "{name}");
        }
        for broken in [&b""[..], b"Digest", b"Digest username", b"Digest username=\"x", b"\xff a=b"]
        {
            assert_eq!(parameter(broken, "username"), None);
        }
    }
}
