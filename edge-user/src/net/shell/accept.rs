//! Listeners: who is let in, and the handshake that proves it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, rustls::server::Acceptor};

use super::{
    bind,
    counters::add,
    hub::{Hub, Phase, Way, side_index},
    limits::Place,
    queue::{CloseCause, WriteQueue},
    settings::Settings,
    stream,
};
use crate::{
    config::Transport,
    federation::CertificateNames,
    net::{
        Core,
        tls::{HandshakeError, HandshakeFault, SentChain, TlsStore},
    },
    proxy::{Peer, Refusal, Side},
};

/// A pause after `accept` failed (no file descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the listener is taken away or the shell drains.
pub(super) async fn run<C: Core>(
    hub: Arc<Hub<C>>,
    listener: TcpListener,
    side: Side,
    transport: Transport,
    mut remove: watch::Receiver<bool>,
) {
    let mut phase = hub.phase.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return,
            _ = remove.wait_for(|remove| *remove) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => admit(&hub, stream, remote, side, transport),
            Err(error) => {
                add(&hub.counters.accept_failed);
                if let Some(left_out) = hub.counters.line() {
                    tracing::error!(%error, ?side, left_out, "no connection can be accepted");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn admit<C: Core>(
    hub: &Arc<Hub<C>>,
    stream: TcpStream,
    remote: SocketAddr,
    side: Side,
    transport: Transport,
) {
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let Ok(local) = stream.local_addr() else { return };
    let settings = hub.settings();
    if side == Side::Remote && hub.refuses(remote.ip()) {
        return hub.counters.refused(Refusal::Banned);
    }
    let peer = Peer { side, transport, remote, local, names: Arc::default(), own: 0 };
    // By prefix at once; by certificate after the handshake.
    if side == Side::Inside && transport != Transport::Tls && !settings.listed(&peer) {
        hub.refuse(remote, Refusal::NotListed, not_listed(&peer));
        return;
    }
    if let Some(place) = enter(hub, &settings, remote, (side, transport)) {
        bind::set_stream(&stream);
        tokio::spawn(serve(Arc::clone(hub), settings, stream, peer, place));
    }
}

/// Takes a place of this side, if there is one. A stranger may have to give it to another, until a
/// request of theirs was admitted; by TLS inside, until it has shown that it is a listed server.
fn enter<C: Core>(
    hub: &Hub<C>,
    settings: &Settings,
    remote: SocketAddr,
    (side, transport): (Side, Transport),
) -> Option<Place> {
    let (total, per_source) = settings.places_for(side);
    let places = hub.places.get(side_index(side))?;
    let entered = match transport {
        Transport::Tls => {
            let repute = hub.repute(side, remote.ip());
            places.enter_on_trial(remote.ip(), repute, total, per_source)
        }
        // Its address was all there is to know.
        Transport::Tcp | Transport::Udp => places.enter(remote.ip(), total, per_source),
    };
    match entered {
        Ok(place) => Some(place),
        Err(full) => {
            hub.counters.full(full);
            if let Some(left_out) = hub.counters.line() {
                tracing::warn!(%remote, ?side, ?full, left_out, "too many connections: not accepted");
            }
            None
        }
    }
}

async fn serve<C: Core>(
    hub: Arc<Hub<C>>,
    settings: Arc<Settings>,
    stream: TcpStream,
    mut peer: Peer,
    mut place: Place,
) {
    if peer.transport != Transport::Tls {
        return carry(&hub, stream, peer, None, place);
    }
    let mut phase = hub.phase.subscribe();
    let shaken = tokio::select! {
        biased;
        // Another member of the pool, or another server, is the better place to go on.
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return,
        () = place.given_up() => return hub.closed_by_us(&peer, CloseCause::GaveWay),
        shaken = handshake(&hub, &settings, stream, (peer.side, peer.remote.ip())) => shaken,
    };
    let (stream, names, own) = match shaken {
        Ok(done) => done,
        Err(error) => return failed(&hub, peer.remote, &error),
    };
    peer.own = own;
    match names {
        Some(names) => peer.names = Arc::new(names),
        // The class is fixed here, and never guessed from what is said (trust rules, section 1).
        None if peer.side == Side::Partner => {
            peer.side = Side::Remote;
            let as_what = (Side::Remote, Transport::Tls);
            let Some(other) = enter(&hub, &settings, peer.remote, as_what) else { return };
            place = other;
        }
        None => {}
    }
    // The ban may have come during the handshake.
    if peer.side == Side::Remote && hub.refuses(peer.remote.ip()) {
        return hub.counters.refused(Refusal::Banned);
    }
    // The list may have changed during the handshake.
    if peer.side == Side::Inside && !hub.settings().listed(&peer) {
        hub.refuse(peer.remote, Refusal::NotListed, not_listed(&peer));
        return;
    }
    if peer.side == Side::Inside {
        place.proved().store(true, Ordering::Relaxed);
    }
    let chain = hub.tls.keep(stream.get_ref().1.peer_certificates());
    carry(&hub, stream, peer, chain, place);
}

fn carry<S, C>(hub: &Arc<Hub<C>>, io: S, peer: Peer, chain: SentChain, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Core,
{
    let queue = WriteQueue::new(hub.settings().config.limits.write_queue_bytes);
    let link = hub.open_accepted(peer, Way::Stream(queue), place.proved(), chain);
    stream::carry(hub, link, io, place);
}

type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;

async fn handshake<C: Core>(
    hub: &Arc<Hub<C>>,
    settings: &Settings,
    stream: TcpStream,
    (side, remote): (Side, IpAddr),
) -> Result<(ServerStream, Option<CertificateNames>, u8), HandshakeError> {
    let shaking = async {
        // A peer that says nothing takes no place among the handshakes.
        stream.peek(&mut [0]).await?;
        if side != Side::Inside && !hub.may_shake(settings, side, remote) {
            return Err(HandshakeError::too_many());
        }
        let (total, per_source) = settings.handshakes_for(side);
        let repute = hub.repute(side, remote);
        let handshakes = hub.handshakes.get(side_index(side)).ok_or_else(no_files)?;
        let mut turn = handshakes[repute as usize]
            .enter_on_trial(remote, repute, total, per_source)
            .map_err(|_| HandshakeError::too_many())?;
        let tls = Arc::clone(&hub.tls);
        let accepting = move |stream| accept(tls, side, stream);
        let accepted = async {
            match side {
                // Our own servers do not stand in line with strangers.
                Side::Inside => accepting(stream).await,
                _ => hub.low_priority.shake(stream, accepting).await,
            }
        };
        tokio::select! {
            accepted = accepted => accepted,
            () = turn.given_up() => Err(HandshakeError::gave_way()),
        }
    };
    let (stream, own) = tokio::time::timeout(settings.config.limits.handshake_timeout, shaking)
        .await
        .map_err(|_| HandshakeError::timeout())??;
    let chain = stream.get_ref().1.peer_certificates();
    let shared = settings.config.services.remote.as_ref().is_some_and(|remote| remote.shared);
    let names = match (side, chain) {
        (Side::Remote, _) => None,
        (Side::Partner, None) if shared => None,
        _ => Some(hub.tls.peer_names(side, chain)?),
    };
    Ok((stream, names, own))
}

fn no_files() -> HandshakeError {
    let detail = "no TLS files are configured for this side".to_owned();
    HandshakeError { fault: HandshakeFault::Protocol, detail }
}

async fn accept(
    tls: Arc<TlsStore>,
    side: Side,
    stream: TcpStream,
) -> Result<(ServerStream, u8), HandshakeError> {
    if !tls.asks_for_name(side) {
        let config = tls.server(side).ok_or_else(no_files)?;
        return Ok((TlsAcceptor::from(config).accept(stream).await?, 0));
    }
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let name = hello.client_hello().server_name().map(str::to_owned);
    let (config, own) = tls.server_for(side, name.as_deref()).ok_or_else(no_files)?;
    Ok((hello.into_stream(config).await?, own))
}

/// Counts a failed handshake. A fault of the peer's certificate, and having nothing in common with
/// it, is a refusal too.
fn failed<C: Core>(hub: &Arc<Hub<C>>, remote: SocketAddr, error: &HandshakeError) {
    hub.counters.handshake(error.fault);
    if error.fault.is_certificate() || error.fault.is_mismatch() {
        hub.refuse(remote, error.refusal(), error.named());
    } else if let Some(left_out) = hub.counters.line() {
        tracing::info!(%remote, fault = error.fault.name(), %error, left_out, "TLS handshake failed");
    }
}

fn not_listed(peer: &Peer) -> String {
    if peer.transport == Transport::Tls {
        let names: Vec<_> = peer.names.all().take(8).map(|name| name.as_str()).collect();
        format!("no name of its certificate is in [inside] servers: {}", names.join(", "))
    } else {
        "its address is in no prefix of [inside] servers".to_owned()
    }
}
