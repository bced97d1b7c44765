//! The token in our Record-Route URIs: what a dialog was when it was formed, authenticated, so
//! that an in-dialog request can be judged without keeping any state for the dialog.
//!
//! It carries the direction, both proven peers, and which Routes of our own servers may follow; the code over it (HMAC-SHA-256, cut to 128
//! bits) also covers Call-ID, tags, From and To, which the request itself must bring. A token
//! opens nothing by itself: the connection must prove the same partner again, and policy is
//! judged again. Keys are derived from one secret by time, so they rotate by themselves, overlap,
//! and are the same all over a pool that shares the secret.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ring::hmac;

use super::{base64url, flow::Flow, route_set::RouteSet};
use crate::{
    config::Transport,
    domain::Domain,
    media::policy::Modalities,
    sip::{Host, NameAddr, Uri},
};

/// A key signs for this long.
const EPOCH: Duration = Duration::from_secs(6 * 3600);
/// So many former keys still verify: a week. A dialog must not live longer without a new one.
const OVERLAP: u32 = 28;
const VERSION: u8 = 1;
/// With the flow of a remote user.
const WITH_FLOW: u8 = 2;
const INBOUND: u8 = 1;
const BOTH_TAGS: u8 = 2;
/// With the Routes that may follow.
const WITH_ROUTES: u8 = 4;
/// With what its parties may do.
const WITH_MODALITIES: u8 = 8;
const CODE_BYTES: usize = 16;
/// No token is longer, whatever a peer sends.
const MAX_TEXT: usize = 512;

/// A dialog, as it was when it was formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The partner sent the first request; otherwise we did.
    pub inbound: bool,
    /// The partner's domain, proved by its connection.
    pub partner: Domain,
    /// The partner's edge.
    pub partner_remote: SocketAddr,
    /// How the inside server is reached.
    pub inside_transport: Transport,
    /// The inside server's end of its connection.
    pub inside_remote: SocketAddr,
    /// The dialog is with a remote user, on this connection.
    pub flow: Option<Flow>,
    /// The Routes that follow ours in a request from outside: these, or none at all.
    pub routes: Option<RouteSet>,
    /// What its parties were allowed when it was formed: the user who was called is not always the
    /// one that To names.
    pub allowed: Modalities,
}

/// Why a text is no token of the dialog that it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// It was never signed by us for this dialog.
    Foreign,
    /// It was, and its time is over.
    Expired,
}

/// What the code covers beside the token's own content.
#[derive(Clone, Copy, Debug)]
pub struct Dialog<'a> {
    /// Call-ID.
    pub call_id: &'a str,
    /// From of the request that formed the dialog.
    pub caller: &'a NameAddr<'a>,
    /// To of it.
    pub callee: &'a NameAddr<'a>,
}

/// Signs and verifies tokens.
pub struct TokenKeys {
    /// The first signs, all are believed.
    secrets: Vec<hmac::Key>,
    started: Instant,
    unix_time: u64,
    /// Keys made so far, by secret and epoch; few.
    made: Vec<(usize, u32, hmac::Key)>,
    /// What the code covers, put together.
    covered: Vec<u8>,
}

impl TokenKeys {
    /// `secret`: the same for every member of a pool. `former`: what other members may sign with
    /// still, or already. `unix_time`: wall clock at `now`.
    pub fn new(secret: &[u8; 32], former: Option<&[u8; 32]>, now: Instant, unix_time: u64) -> Self {
        let (started, covered) = (now, Vec::new());
        let mut keys = Self { secrets: vec![], started, unix_time, made: vec![], covered };
        keys.set(secret, former);
        keys
    }

    /// Takes other secrets.
    pub fn set(&mut self, secret: &[u8; 32], former: Option<&[u8; 32]>) {
        let key = |secret: &[u8; 32]| hmac::Key::new(hmac::HMAC_SHA256, secret);
        self.secrets = std::iter::once(secret).chain(former).map(key).collect();
        self.made.clear();
    }

    /// Wall clock, seconds since 1970.
    pub fn unix(&self, now: Instant) -> u64 {
        self.unix_time.saturating_add(now.saturating_duration_since(self.started).as_secs())
    }

    fn epoch(&self, now: Instant) -> u32 {
        u32::try_from(self.unix(now) / EPOCH.as_secs()).unwrap_or(u32::MAX)
    }

    fn derived(&self, secret: usize, epoch: u32) -> hmac::Key {
        let mut context = hmac::Context::with_key(&self.secrets[secret]);
        context.update(b"edge record-route key");
        context.update(&epoch.to_be_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, context.sign().as_ref())
    }

    fn key(&mut self, secret: usize, epoch: u32) -> &hmac::Key {
        let same = |(of, made, _): &(usize, u32, _)| (*of, *made) == (secret, epoch);
        let at = match self.made.iter().position(same) {
            Some(at) => at,
            None => {
                if self.made.len() > self.secrets.len() * (OVERLAP as usize + 2) {
                    self.made.clear();
                }
                self.made.push((secret, epoch, self.derived(secret, epoch)));
                self.made.len() - 1
            }
        };
        &self.made[at].2
    }

    /// The code over a token and its dialog: every part with its length, so that no two inputs
    /// look alike.
    fn code(
        &mut self,
        (secret, epoch): (usize, u32),
        content: &[u8],
        dialog: &Dialog<'_>,
        both: bool,
    ) -> hmac::Tag {
        let covered = self.cover(content, dialog, both);
        let code = hmac::sign(self.key(secret, epoch), &covered);
        self.covered = covered;
        code
    }

    /// The same with a key that is made for it alone: senders choose how old a token says it is, and keys
    /// that are in use stay.
    fn former_code(
        &mut self,
        (secret, epoch): (usize, u32),
        content: &[u8],
        dialog: &Dialog<'_>,
        both: bool,
    ) -> hmac::Tag {
        let covered = self.cover(content, dialog, both);
        let code = hmac::sign(&self.derived(secret, epoch), &covered);
        self.covered = covered;
        code
    }

    fn cover(&mut self, content: &[u8], dialog: &Dialog<'_>, both: bool) -> Vec<u8> {
        let mut covered = std::mem::take(&mut self.covered);
        covered.clear();
        put(&mut covered, content);
        put(&mut covered, dialog.call_id.as_bytes());
        put(&mut covered, dialog.caller.tag().unwrap_or_default().as_bytes());
        let callee_tag = if both { dialog.callee.tag() } else { None };
        put(&mut covered, callee_tag.unwrap_or_default().as_bytes());
        put_party(&mut covered, &dialog.caller.uri);
        put_party(&mut covered, &dialog.callee.uri);
        covered
    }

    /// The token's text. The callee's tag is covered when the dialog has one.
    pub fn sign(&mut self, now: Instant, token: &Token, dialog: &Dialog<'_>) -> String {
        let epoch = self.epoch(now);
        let both = dialog.callee.tag().is_some();
        let mut bytes = Vec::with_capacity(64 + token.partner.as_str().len());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let flags = flag(token.inbound, INBOUND)
            | flag(both, BOTH_TAGS)
            | flag(token.routes.is_some(), WITH_ROUTES)
            | flag(!token.allowed.is_all(), WITH_MODALITIES);
        let version = if token.flow.is_some() { WITH_FLOW } else { VERSION };
        bytes.extend_from_slice(&[version, flags]);
        bytes.extend_from_slice(&epoch.to_be_bytes());
        bytes.push(match token.inside_transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
            Transport::Tls => 2,
        });
        put_address(&mut bytes, token.inside_remote);
        put_address(&mut bytes, token.partner_remote);
        if let Some(flow) = token.flow {
            bytes.extend_from_slice(&flow.to_bytes());
        }
        if !token.allowed.is_all() {
            bytes.push(token.allowed.to_byte());
        }
        if let Some(routes) = &token.routes {
            bytes.extend_from_slice(routes.bytes());
        }
        bytes.extend_from_slice(token.partner.as_str().as_bytes());
        let code = self.code((0, epoch), &bytes, dialog, both);
        bytes.extend_from_slice(&code.as_ref()[..CODE_BYTES]);
        let mut text = String::with_capacity(bytes.len() * 4 / 3 + 2);
        base64url::encode(&bytes, &mut text);
        text
    }

    /// Reads a token that came with an in-dialog request. `from_outside`: on which side it came.
    /// `None` for anything that we did not sign for this very dialog.
    pub fn verify(
        &mut self,
        now: Instant,
        text: &str,
        from_outside: bool,
        call_id: &str,
        from: &NameAddr<'_>,
        to: &NameAddr<'_>,
    ) -> Option<Token> {
        self.check(now, text, from_outside, call_id, from, to).ok()
    }

    /// The same, and tells what was signed and is too old from what was not.
    pub fn check(
        &mut self,
        now: Instant,
        text: &str,
        from_outside: bool,
        call_id: &str,
        from: &NameAddr<'_>,
        to: &NameAddr<'_>,
    ) -> Result<Token, TokenFault> {
        let expired = self.signed(now, text, from_outside, call_id, from, to);
        let (content, expired) = expired.ok_or(TokenFault::Foreign)?;
        if expired {
            return Err(TokenFault::Expired);
        }
        Token::read(&content).ok_or(TokenFault::Foreign)
    }

    /// A token's content, when it was signed for this dialog, and whether its time is over.
    fn signed(
        &mut self,
        now: Instant,
        text: &str,
        from_outside: bool,
        call_id: &str,
        from: &NameAddr<'_>,
        to: &NameAddr<'_>,
    ) -> Option<(Vec<u8>, bool)> {
        if text.len() > MAX_TEXT || from.tag().is_none() || to.tag().is_none() {
            return None;
        }
        let mut bytes = base64url::decode(text)?;
        let (content, code) = bytes.split_at_checked(bytes.len().checked_sub(CODE_BYTES)?)?;
        let [version, flags, e0, e1, e2, e3, _] = *content.first_chunk::<7>()?;
        let epoch = u32::from_be_bytes([e0, e1, e2, e3]);
        let current = self.epoch(now);
        // One ahead: another member's clock.
        if (version != VERSION && version != WITH_FLOW) || epoch > current.saturating_add(1) {
            return None;
        }
        let expired = current.saturating_sub(epoch) > OVERLAP;
        let inbound = flags & INBOUND != 0;
        let (caller, callee) = if inbound == from_outside { (from, to) } else { (to, from) };
        let dialog = Dialog { call_id, caller, callee };
        let both = flags & BOTH_TAGS != 0;
        let signed = (0..self.secrets.len()).any(|secret| {
            let expected = match expired {
                true => self.former_code((secret, epoch), content, &dialog, both),
                false => self.code((secret, epoch), content, &dialog, both),
            };
            same_code(&expected.as_ref()[..CODE_BYTES], code)
        });
        let length = content.len();
        bytes.truncate(length);
        signed.then_some((bytes, expired))
    }
}

impl Token {
    /// From what was signed.
    fn read(content: &[u8]) -> Option<Self> {
        let ([version, flags, _, _, _, _, transport], rest) = content.split_first_chunk::<7>()?;
        let inside_transport = match transport {
            0 => Transport::Udp,
            1 => Transport::Tcp,
            2 => Transport::Tls,
            _ => return None,
        };
        let (inside_remote, rest) = take_address(rest)?;
        let (partner_remote, rest) = take_address(rest)?;
        let (flow, rest) = match *version {
            WITH_FLOW => Flow::take(rest).map(|(flow, rest)| (Some(flow), rest))?,
            _ => (None, rest),
        };
        let (allowed, rest) = match flags & WITH_MODALITIES {
            0 => (Modalities::ALL, rest),
            _ => rest.split_first().map(|(byte, rest)| (Modalities::from_byte(*byte), rest))?,
        };
        let (routes, rest) = match flags & WITH_ROUTES {
            0 => (None, rest),
            _ => RouteSet::take(rest).map(|(routes, rest)| (Some(routes), rest))?,
        };
        let partner = std::str::from_utf8(rest).ok()?.parse().ok()?;
        Some(Self {
            inbound: flags & INBOUND != 0,
            partner,
            partner_remote,
            inside_transport,
            inside_remote,
            flow,
            routes,
            allowed,
        })
    }
}

/// Compares every byte, so that the time says nothing about where two codes differ.
pub(super) fn same_code(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn put(covered: &mut Vec<u8>, part: &[u8]) {
    covered.extend_from_slice(&(part.len() as u64).to_be_bytes());
    covered.extend_from_slice(part);
}

/// User and host: parameters of the address may change within a dialog, these may not.
fn put_party(covered: &mut Vec<u8>, uri: &Uri<'_>) {
    put(covered, uri.user().unwrap_or_default().as_bytes());
    match uri.host() {
        Some(Host::Name(name)) => {
            put(covered, name.as_bytes());
            let start = covered.len() - name.len();
            covered.get_mut(start..).unwrap_or_default().make_ascii_lowercase();
        }
        Some(address) => put(covered, address.to_string().as_bytes()),
        None => put(covered, uri.as_str().as_bytes()),
    }
}

fn put_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend_from_slice(&ip.octets());
        }
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
}

fn take_address(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (ip, rest) = match bytes.split_first()? {
        (4, rest) => {
            let (ip, rest) = rest.split_first_chunk::<4>()?;
            (IpAddr::from(*ip), rest)
        }
        (6, rest) => {
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            (IpAddr::from(*ip), rest)
        }
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk::<2>()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::policy::Modality;

    const ALICE: &[u8] = b"<sip:alice@contoso.example>;tag=a1";
    const BOB: &[u8] = b"Bob <sip:bob@fabrikam.example>;tag=b1";
    const BOB_UNTAGGED: &[u8] = b"Bob <sip:bob@fabrikam.example>";

    fn token(inbound: bool) -> Token {
        Token {
            inbound,
            partner: "fabrikam.example".parse().unwrap(),
            partner_remote: "[2001:db8::5]:5061".parse().unwrap(),
            inside_transport: Transport::Tcp,
            inside_remote: "10.0.0.5:40000".parse().unwrap(),
            flow: None,
            routes: None,
            allowed: Modalities::ALL,
        }
    }

    fn address(text: &[u8]) -> NameAddr<'_> {
        NameAddr::parse(text).unwrap()
    }

    fn keys(now: Instant) -> TokenKeys {
        TokenKeys::new(&[7; 32], None, now, 1_700_000_000)
    }

    #[test]
    fn a_token_verifies_for_both_sides_of_its_dialog_only() {
        let now = Instant::now();
        let mut keys = keys(now);
        for callee in [BOB, BOB_UNTAGGED] {
            let dialog =
                Dialog { call_id: "c1", caller: &address(ALICE), callee: &address(callee) };
            let text = keys.sign(now, &token(false), &dialog);
            let (alice, bob) = (address(ALICE), address(BOB));
            // Alice is inside, and called.
            assert_eq!(keys.verify(now, &text, false, "c1", &alice, &bob), Some(token(false)));
            assert_eq!(keys.verify(now, &text, true, "c1", &bob, &alice), Some(token(false)));
            // Each other combination is another dialog.
            let other_tag = address(b"<sip:alice@contoso.example>;tag=a2");
            let other_user = address(b"<sip:eve@contoso.example>;tag=a1");
            let other_host = address(b"<sip:alice@it.contoso.example>;tag=a1");
            assert_eq!(keys.verify(now, &text, false, "c2", &alice, &bob), None);
            assert_eq!(keys.verify(now, &text, true, "c1", &alice, &bob), None);
            assert_eq!(keys.verify(now, &text, false, "c1", &bob, &alice), None);
            assert_eq!(keys.verify(now, &text, false, "c1", &other_tag, &bob), None);
            assert_eq!(keys.verify(now, &text, false, "c1", &other_user, &bob), None);
            assert_eq!(keys.verify(now, &text, false, "c1", &other_host, &bob), None);
            assert_eq!(
                keys.verify(now, &text, false, "c1", &alice, &address(BOB_UNTAGGED)),
                None,
                "no To tag, no dialog"
            );
        }
    }

    #[test]
    fn the_callees_tag_is_bound_once_it_is_known() {
        let now = Instant::now();
        let mut keys = keys(now);
        let other = address(b"<sip:bob@fabrikam.example>;tag=b2");
        for (callee, expected) in [(BOB, None), (BOB_UNTAGGED, Some(token(true)))] {
            let dialog =
                Dialog { call_id: "c1", caller: &address(ALICE), callee: &address(callee) };
            let text = keys.sign(now, &token(true), &dialog);
            assert_eq!(keys.verify(now, &text, true, "c1", &address(ALICE), &other), expected);
        }
    }

    #[test]
    fn a_token_brings_its_flow_and_its_routes_back() {
        let now = Instant::now();
        let mut keys = keys(now);
        let (alice, bob) = (address(ALICE), address(BOB));
        let dialog = Dialog { call_id: "c1", caller: &alice, callee: &bob };
        let flow = Some(Flow { connection: crate::proxy::ConnectionId(u64::MAX - 1), run: 7 });
        let routes = RouteSet::of(std::iter::once(&b"<sip:10.0.0.5;lr>"[..]));
        for (flow, routes) in [(flow, None), (None, routes), (flow, routes)] {
            for allowed in [Modalities::ALL, Modalities::NONE.with(Modality::Im)] {
                let token = Token { flow, routes, allowed, ..token(false) };
                let text = keys.sign(now, &token, &dialog);
                assert_eq!(keys.verify(now, &text, false, "c1", &alice, &bob), Some(token));
            }
        }
    }

    #[test]
    fn every_changed_character_breaks_a_token() {
        let now = Instant::now();
        let mut keys = keys(now);
        let (alice, bob) = (address(ALICE), address(BOB));
        let dialog = Dialog { call_id: "c1", caller: &alice, callee: &bob };
        let text = keys.sign(now, &token(false), &dialog);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(keys.verify(now, &changed, false, "c1", &alice, &bob), None, "{at}");
        }
        for cut in 0..text.len() {
            assert_eq!(keys.verify(now, &text[..cut], false, "c1", &alice, &bob), None, "{cut}");
        }
    }

    #[test]
    fn keys_rotate_overlap_expire_and_are_shared_by_a_pool() {
        let now = Instant::now();
        let (alice, bob) = (address(ALICE), address(BOB));
        let dialog = Dialog { call_id: "c1", caller: &alice, callee: &bob };
        let mut ours = keys(now);
        let mut member = keys(now);
        let mut stranger = TokenKeys::new(&[8; 32], None, now, 1_700_000_000);
        let first = ours.sign(now, &token(false), &dialog);
        let later = now + EPOCH;
        assert_ne!(first, ours.sign(later, &token(false), &dialog));
        for (at, expected) in [(now, true), (later, true), (now + EPOCH * (OVERLAP + 2), false)] {
            for keys in [&mut ours, &mut member] {
                let got = keys.check(at, &first, false, "c1", &alice, &bob);
                let too_old = Err(TokenFault::Expired);
                assert_eq!(got, if expected { Ok(token(false)) } else { too_old });
                // Only of its own dialog it is told that it is too old.
                let other = keys.check(at, &first, false, "c2", &alice, &bob);
                assert_eq!(other, Err(TokenFault::Foreign));
            }
            assert_eq!(stranger.verify(at, &first, false, "c1", &alice, &bob), None);
        }
    }
    #[test]
    fn a_new_secret_signs_and_the_former_one_is_believed_until_it_is_taken_out() {
        let now = Instant::now();
        let (alice, bob) = (address(ALICE), address(BOB));
        let dialog = Dialog { call_id: "c1", caller: &alice, callee: &bob };
        let believes = |keys: &mut TokenKeys, text: &str| {
            keys.verify(now, text, false, "c1", &alice, &bob).is_some()
        };
        // One member after the other: the old first, then the new one first, then it alone.
        let mut one = keys(now);
        let mut two = keys(now);
        let old = one.sign(now, &token(false), &dialog);
        one.set(&[7; 32], Some(&[8; 32]));
        two.set(&[8; 32], Some(&[7; 32]));
        let new = two.sign(now, &token(false), &dialog);
        assert_ne!(old, new);
        for text in [&old, &new] {
            assert!(believes(&mut one, text) && believes(&mut two, text));
        }
        two.set(&[8; 32], None);
        assert!(!believes(&mut two, &old) && believes(&mut two, &new));
        let mut stranger = TokenKeys::new(&[9; 32], Some(&[10; 32]), now, 1_700_000_000);
        assert!(!believes(&mut stranger, &old) && !believes(&mut stranger, &new));
    }
}
