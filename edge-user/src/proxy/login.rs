//! Passwords of remote users: what our servers answered to requests that carried credentials, and
//! who is shut out for it. The credentials themselves are looked at for the name of the account and
//! for nothing else, and are shown to nobody.

use std::{net::IpAddr, time::Instant};

use ipnet::IpNet;

use super::{ConnectionId, Event, Output, Peer, Refusal, Side, admit::sip_domain, proxy::Proxy};
use crate::{
    domain::Domain,
    federation::{Ban, Login, LoginEntry, UserName, source_of},
    sip::{HeaderName, Message, Method},
};

const CREDENTIALS: [HeaderName; 2] = [HeaderName::Authorization, HeaderName::ProxyAuthorization];
const CHALLENGES: [HeaderName; 2] = [HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate];

impl Proxy {
    /// A remote user's request may go inside: whether it may with the credentials it carries.
    pub(super) fn judge_login(
        &mut self,
        now: Instant,
        peer: &Peer,
        message: &Message,
    ) -> Result<(), Refusal> {
        let Some((account, domain)) = account(message) else { return Ok(()) };
        let user = UserName::new(Some(&account), &domain);
        let settings = &self.config.remote.guard;
        match self.guard.request(now, settings, peer.remote.ip(), &user) {
            LoginEntry::Pass => Ok(()),
            LoginEntry::Slow => Err(Refusal::UserSlowed),
            LoginEntry::Banned => Err(Refusal::Banned),
        }
    }

    /// Our servers answered a remote user's request: a ban, if that is one wrong password too many.
    pub(super) fn note_login(
        &mut self,
        now: Instant,
        id: u64,
        status: u16,
        response: &Message,
    ) -> Option<Ban> {
        let exchange = self.exchanges.get(id).filter(|e| e.remote && e.inbound)?;
        let (account, domain) = account(exchange.request.as_ref()?)?;
        let login = match status {
            200..300 => Login::Good,
            401 | 407 if is_a_step(response) => return None,
            401 | 403 | 407 => Login::Failed,
            _ => return None,
        };
        let user = UserName::new(Some(&account), &domain);
        let from = exchange.from_peer.remote.ip();
        self.guard.outcome(now, &self.config.remote.guard, from, &user, login)
    }

    /// Closes what comes from a source that is banned.
    pub(super) fn shut_out(&mut self, now: Instant, ban: &Ban, out: &mut Vec<Output>) {
        let seconds = ban.left.as_secs();
        out.push(Output::Event(Event::Banned { source: ban.source, seconds }));
        let there: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                let peer = &connection.peer;
                peer.side == Side::Remote && source_of(peer.remote.ip()) == ban.source
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

/// Whose password a request brings: the account that its credentials name, else who it is from.
/// `None`: it brings none.
fn account(message: &Message) -> Option<(String, Domain)> {
    if message.method() == Some(Method::Ack) {
        return None;
    }
    let credentials = CREDENTIALS.iter().find_map(|name| message.header(*name))?.value;
    let from = message.from().ok()?;
    let domain = sip_domain(&from.uri)?;
    let named = parameter(credentials, "username").filter(|name| !name.is_empty());
    let name = named.or(from.uri.user()).unwrap_or_default();
    // `alice`, `alice@contoso.example` and `CONTOSO\\alice` are one.
    let name = name.rsplit('\\').next().unwrap_or(name);
    let name = name.split('@').next().unwrap_or(name);
    Some((name.to_owned(), domain))
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

/// The value of a parameter of credentials or of a challenge, without its quotes.
fn parameter<'m>(value: &'m [u8], name: &str) -> Option<&'m str> {
    let text = std::str::from_utf8(value).ok()?;
    let mut rest = text.split_once(' ')?.1;
    loop {
        let (own, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            // What is escaped stays so: it is compared, not shown.
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                })?;
                (quoted.get(..end)?, quoted.get(end + 1..)?)
            }
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
