//! One request on its way through: the server transaction it came with and the client
//! transaction it goes out with (RFC 3261 section 17, RFC 6026), joined, since a proxy that does
//! not fork never has one without the other.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, Hasher, RandomState},
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{ConnectionId, Peer, Side, record_route::Rewrite, respond::Answer, route::Destination};
use crate::{
    config::Transport,
    domain::Domain,
    federation::{Partner, first_of_source},
    media::{flow::CallId, policy::Modalities},
    sip::{Host, Message, Method},
};

/// RFC 3261 table 4.
pub(super) const T1: Duration = Duration::from_millis(500);
pub(super) const T2: Duration = Duration::from_secs(4);
pub(super) const T4: Duration = Duration::from_secs(5);
/// Timers B, F, H, J, L, M, D: 64 times T1.
pub(super) const TRANSACTION: Duration = Duration::from_secs(32);
/// Timer C: more than three minutes.
pub(super) const TIMER_C: Duration = Duration::from_secs(185);
/// An INVITE that nothing answered, not even 100, is tried elsewhere after this, if there is an
/// elsewhere.
pub(super) const SILENCE: Duration = Duration::from_secs(4);
/// The same of what is no INVITE: half of what its sender waits (timer F), so that elsewhere there is
/// time for an answer (RFC 3263 section 4.3). Whoever lives has said 100 by then (RFC 4320).
pub(super) const LONG_SILENCE: Duration = Duration::from_secs(16);
/// What is no INVITE and has no answer yet gets 100 after this: T1 + 2 T1 + 4 T1 (RFC 4320).
pub(super) const TRYING: Duration = Duration::from_millis(3500);
/// An INVITE that is not sent on yet gets 100 after this: 200 ms are allowed (RFC 3261 section 17.2.1).
pub(super) const PROMPTLY: Duration = Duration::from_millis(150);
/// Tries of one request in all.
pub(super) const MAX_ATTEMPTS: u8 = 8;

/// What identifies a server transaction (RFC 3261 section 17.2.3): who sent it, branch and sent-by
/// of the top Via, and the method, where ACK and CANCEL count as INVITE; as a hash of 128 bits
/// under keys of this process, which nobody can make two requests meet in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TransactionKey(u128);

/// The hash's keys.
static KEYS: LazyLock<[RandomState; 2]> =
    LazyLock::new(|| [RandomState::new(), RandomState::new()]);

impl TransactionKey {
    /// The key of a request from this sender.
    pub(super) fn of(message: &Message, scope: u64) -> Self {
        let method = match message.method() {
            Some(Method::Ack | Method::Cancel) | None => "INVITE",
            Some(method) => method.as_str(),
        };
        let Ok(via) = message.via() else { return Self::hash(scope, &[method], &[], 0) };
        let address = match via.host {
            Host::Name(_) => [0; 16],
            Host::V4(address) => address.to_ipv6_mapped().octets(),
            Host::V6(address) => address.octets(),
        };
        let name = if let Host::Name(name) = via.host { name } else { "" };
        let port = u32::from(via.port.unwrap_or(0));
        let mut parts = [method, via.branch.unwrap_or_default(), name, "", ""];
        let mut number = 0;
        if via.unique_branch().is_none() {
            // RFC 2543: the branch says nothing.
            parts[3] = message.from().ok().and_then(|from| from.tag()).unwrap_or_default();
            parts[4] = message.call_id().unwrap_or_default();
            number = message.cseq().map_or(0, |cseq| cseq.number);
        }
        Self::hash(scope, &parts, &address, u64::from(port) << 32 | u64::from(number))
    }

    fn hash(scope: u64, parts: &[&str], address: &[u8], numbers: u64) -> Self {
        let half = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            hasher.write_u64(scope);
            hasher.write_u64(numbers);
            for part in parts {
                hasher.write(part.as_bytes());
                // No text holds this byte.
                hasher.write_u8(0xff);
            }
            hasher.write(address);
            u128::from(hasher.finish())
        };
        let [first, second] = &*KEYS;
        Self(half(first) << 64 | half(second))
    }
}

/// What kind of transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Invite,
    NonInvite,
    /// ACK for a 2xx, and Lync's BENOTIFY: nothing comes back.
    OneWay,
}

/// The server transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// No final response yet.
    Proceeding,
    /// A final one was sent (for INVITE: not a 2xx, and ACK is awaited).
    Completed,
    /// INVITE: ACK came.
    Confirmed,
    /// INVITE: a 2xx was passed on (RFC 6026).
    Accepted,
}

/// The client transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientState {
    Calling,
    Proceeding,
    Completed,
    Accepted,
}

#[derive(Debug)]
pub(super) struct Client {
    pub connection: ConnectionId,
    pub remote: SocketAddr,
    pub transport: Transport,
    pub reliable: bool,
    pub state: ClientState,
    /// The connection was there before the request.
    pub pooled: bool,
    /// The request as sent, while it may be needed again.
    pub sent: Bytes,
    /// A CANCEL was sent: this.
    pub cancel: Option<Bytes>,
    /// What is no INVITE is answered by then, when it was not silent before.
    pub until: Instant,
}

/// How far the request is.
#[derive(Debug)]
pub(super) enum Stage {
    /// DNS is asked who its sender is.
    Admitting,
    /// A connection is made.
    Connecting,
    /// It was sent.
    Sent(Client),
    /// It will not be sent; only the server side is left.
    Over,
}

#[derive(Debug)]
pub(super) struct Exchange {
    pub kind: Kind,
    pub inbound: bool,
    /// What is outside is a remote user.
    pub remote: bool,
    /// A remote user's that begins no call, and has no token that shows its dialog: its media is
    /// nobody's.
    pub stranger: bool,
    /// Known once it is admitted; no remote user has one.
    pub partner: Option<Domain>,
    /// The partner's entry in the policy, once it is admitted.
    pub entry: Option<Arc<Partner>>,
    /// It belongs to a dialog with this partner (by its token).
    pub dialog: Option<Domain>,
    /// What its parties may do with one another, by the token of its dialog and by whoever was
    /// called.
    pub allowed: Modalities,
    pub from: ConnectionId,
    pub from_peer: Peer,
    key: TransactionKey,
    pub scope: u64,
    pub hash: u32,
    /// As it came; let go when the final response is through.
    pub request: Option<Message>,
    pub remove_routes: usize,
    pub record: bool,
    pub destinations: VecDeque<Destination>,
    pub preferred: Option<ConnectionId>,
    pub tried: Vec<SocketAddr>,
    pub attempt: u8,
    /// Clients that were silent and were given up, by their attempt: at most [`MAX_ATTEMPTS`].
    pub left: Vec<(u8, Client)>,
    pub failure: Option<Answer>,
    pub server: Server,
    pub stage: Stage,
    pub rewrite: Option<Rewrite>,
    pub last_response: Option<Bytes>,
    /// A response other than 100 was passed on.
    pub answered: bool,
    pub cancelled: bool,
    /// The CANCEL that came, when it says why.
    pub cancel_came: Option<Box<Message>>,
    /// The call whose media it is about.
    pub call: Option<CallId>,
    /// It brought an offer.
    pub offered: bool,
    /// It is too long for UDP, and was to go by TCP.
    pub long: bool,
    /// For people: why it was refused.
    pub detail: Option<Box<str>>,
    /// When it gets 100: what is no INVITE, and has no answer yet.
    pub trying: Option<Instant>,
    /// Waiting for DNS or a connection, or timers B, C and F.
    pub timeout: Option<Instant>,
    pub resend: Option<(Instant, Duration)>,
    pub server_resend: Option<(Instant, Duration)>,
    pub end: Option<Instant>,
}

/// What a new exchange is made from.
pub(super) struct NewExchange {
    pub kind: Kind,
    pub inbound: bool,
    pub remote: bool,
    pub stranger: bool,
    pub from: ConnectionId,
    pub from_peer: Peer,
    pub key: TransactionKey,
    pub scope: u64,
    pub hash: u32,
    pub request: Message,
    pub remove_routes: usize,
    pub record: bool,
    pub destinations: VecDeque<Destination>,
    pub preferred: Option<ConnectionId>,
    pub dialog: Option<Domain>,
    pub allowed: Modalities,
    pub partner: Option<Domain>,
    pub entry: Option<Arc<Partner>>,
}

impl Exchange {
    /// Where a remote user's comes from.
    pub(super) fn source(&self) -> Option<IpAddr> {
        let remote = self.from_peer.side == Side::Remote;
        remote.then(|| first_of_source(self.from_peer.remote.ip()))
    }

    pub(super) fn new(new: NewExchange) -> Self {
        Self {
            kind: new.kind,
            inbound: new.inbound,
            remote: new.remote,
            stranger: new.stranger,
            partner: new.partner,
            entry: new.entry,
            dialog: new.dialog,
            allowed: new.allowed,
            from: new.from,
            from_peer: new.from_peer,
            key: new.key,
            scope: new.scope,
            hash: new.hash,
            request: Some(new.request),
            remove_routes: new.remove_routes,
            record: new.record,
            destinations: new.destinations,
            preferred: new.preferred,
            tried: Vec::new(),
            attempt: 0,
            left: Vec::new(),
            failure: None,
            server: Server::Proceeding,
            stage: Stage::Over,
            rewrite: None,
            last_response: None,
            answered: false,
            cancelled: false,
            cancel_came: None,
            call: None,
            offered: false,
            long: false,
            detail: None,
            trying: None,
            timeout: None,
            resend: None,
            server_resend: None,
            end: None,
        }
    }

    /// The earliest thing to happen.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let resend = self.resend.map(|(at, _)| at);
        let server_resend = self.server_resend.map(|(at, _)| at);
        [self.timeout, resend, server_resend, self.trying, self.end].into_iter().flatten().min()
    }

    pub(super) fn key(&self) -> TransactionKey {
        self.key
    }

    pub(super) fn waits(&self) -> bool {
        matches!(self.stage, Stage::Admitting | Stage::Connecting)
    }

    /// No INVITE, and whoever was silent and given up may answer still.
    pub(super) fn may_be_answered_yet(&self) -> bool {
        self.kind == Kind::NonInvite && !self.left.is_empty()
    }

    pub(super) fn sender_is_reliable(&self) -> bool {
        self.from_peer.transport != Transport::Udp
    }

    pub(super) fn client(&self) -> Option<&Client> {
        match &self.stage {
            Stage::Sent(client) => Some(client),
            _ => None,
        }
    }

    pub(super) fn client_mut(&mut self) -> Option<&mut Client> {
        match &mut self.stage {
            Stage::Sent(client) => Some(client),
            _ => None,
        }
    }

    /// The connection on which a response is awaited.
    pub(super) fn open_on(&self) -> Option<ConnectionId> {
        let client = self.client()?;
        let open = matches!(client.state, ClientState::Calling | ClientState::Proceeding);
        open.then_some(client.connection)
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        match (self.waits(), &self.request) {
            (true, Some(request)) => request.bytes().len(),
            _ => 0,
        }
    }
}
