//! Listeners: how many come in, and TLS from the first byte where that is what the listener is for.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{
    LazyConfigAcceptor, TlsStream, rustls::server::Acceptor, server::TlsStream as ServerStream,
};

use super::{
    Door, XmppCore,
    hub::{Hub, Phase},
    status::add,
    stream::{self, Io},
};
use crate::{
    net::shell::limits::{Full, HANDSHAKES_OF_A_SOURCE, Place},
    xmpp::io::{TlsPeer, XmppInput, XmppSide},
};

/// Those that have been told to go and are not gone, beyond the bound.
const LEAVING: usize = 64;
/// A pause after `accept` failed (no file descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the listener is taken away or the shell stops.
pub(super) async fn run<C: XmppCore>(
    hub: Arc<Hub<C>>,
    listener: TcpListener,
    door: Door,
    mut remove: watch::Receiver<bool>,
) {
    let mut phase = hub.phase.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Stopping) => return,
            _ = remove.wait_for(|remove| *remove) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => admit(&hub, stream, remote, door),
            Err(error) => {
                add(&hub.counters.accept_failed);
                if let Some(left_out) = hub.counters.line() {
                    tracing::error!(%error, left_out, "no XMPP stream can be accepted");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn admit<C: XmppCore>(hub: &Arc<Hub<C>>, stream: TcpStream, remote: SocketAddr, door: Door) {
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let hub = Arc::clone(hub);
    if door.direct_tls {
        // It takes its place when it has gone through the handshake.
        let Ok(shaking) = begin(&hub, remote.ip(), door.side) else { return };
        stream::set_socket(&stream);
        tokio::spawn(serve_direct(hub, stream, remote, door, shaking));
    } else if let Some(place) = enter(&hub, remote.ip(), door.side) {
        stream::set_socket(&stream);
        tokio::spawn(async move { serve(&hub, (stream, remote), door, place).await });
    }
}

/// Takes a place, if there is one.
fn enter<C: XmppCore>(hub: &Hub<C>, remote: IpAddr, side: XmppSide) -> Option<Place> {
    let config = hub.config();
    let total = config.xmpp.limits.connections;
    let [outside, inside] = &hub.places;
    let entered = match side {
        // Who of them goes when there are too many is for the core to say: those that are on their
        // way out have places, too.
        XmppSide::Partner => outside.enter(
            remote,
            total.saturating_add(LEAVING),
            config.limits.connections_per_source,
        ),
        // Our own are few; only their total is bounded.
        XmppSide::Inside => inside.enter(remote, total, total),
    };
    entered
        .inspect_err(|full| {
            add(match full {
                Full::Total => &hub.counters.full_total,
                Full::Source => &hub.counters.full_source,
            });
            if let Some(left_out) = hub.counters.line() {
                tracing::warn!(%remote, ?side, ?full, left_out, "too many XMPP streams: not accepted");
            }
        })
        .ok()
}

async fn serve<C: XmppCore>(
    hub: &Arc<Hub<C>>,
    (stream, remote): (TcpStream, SocketAddr),
    door: Door,
    place: Place,
) {
    let Ok(local) = stream.local_addr() else { return };
    carry(hub, (Io::Plain(stream), None), (local, remote), door.side, place).await;
}

async fn serve_direct<C: XmppCore>(
    hub: Arc<Hub<C>>,
    stream: TcpStream,
    remote: SocketAddr,
    door: Door,
    shaking: Option<Place>,
) {
    let Ok(local) = stream.local_addr() else { return };
    match direct(&hub, stream, remote.ip(), door.side, shaking).await {
        Ok((io, tls)) => {
            if let Some(place) = enter(&hub, remote.ip(), door.side) {
                carry(&hub, (io, Some(tls)), (local, remote), door.side, place).await;
            }
        }
        Err(fault) => {
            add(&hub.counters.handshake_failed);
            if let Some(left_out) = hub.counters.line() {
                tracing::info!(%remote, fault, left_out, "XMPP: TLS handshake failed");
            }
        }
    }
}

async fn carry<C: XmppCore>(
    hub: &Arc<Hub<C>>,
    (io, tls): (Io, Option<TlsPeer>),
    (local, remote): (SocketAddr, SocketAddr),
    side: XmppSide,
    place: Place,
) {
    let link = hub.open((side, remote, false), tls, |stream, tls| XmppInput::Accepted {
        stream,
        side,
        remote,
        local,
        tls,
    });
    stream::run(hub, &link, io, place).await;
}

/// TLS from the first byte (XEP-0368): the certificate goes by the name that is asked for.
async fn direct<C: XmppCore>(
    hub: &Arc<Hub<C>>,
    stream: TcpStream,
    remote: IpAddr,
    side: XmppSide,
    place: Option<Place>,
) -> Result<(Io, TlsPeer), String> {
    let shaking = async {
        // A peer that says nothing costs no handshake.
        stream.peek(&mut [0]).await.map_err(|error| error.to_string())?;
        may_shake(hub, remote, side)?;
        let tls = Arc::clone(&hub.tls);
        aside(hub, side, stream, move |stream| async move {
            let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            let name = hello.client_hello().server_name().and_then(|name| name.parse().ok());
            let config = tls.xmpp_server(name.as_ref(), true);
            let config = config.ok_or_else(|| io::Error::other("XMPP has no TLS files"))?;
            hello.into_stream(config).await
        })
        .await
    };
    let stream = shake(hub, place, shaking).await?;
    let peer = hub.tls.xmpp_peer(side, stream.get_ref().1);
    Ok((Io::Tls(Box::new(TlsStream::Server(stream))), peer))
}

/// Takes a place among the handshakes; our own servers need none.
pub(super) fn begin<C: XmppCore>(
    hub: &Hub<C>,
    remote: IpAddr,
    side: XmppSide,
) -> Result<Option<Place>, String> {
    if side == XmppSide::Inside {
        return Ok(None);
    }
    let most = hub.config().limits.handshakes;
    let of_a_source = most.min(HANDSHAKES_OF_A_SOURCE);
    let repute = hub.pace.repute(remote);
    match hub.handshakes[repute as usize].enter_on_trial(remote, repute, most, of_a_source) {
        Ok(place) => Ok(Some(place)),
        Err(_) => {
            add(&hub.counters.full_source);
            Err("this source has many handshakes under way".to_owned())
        }
    }
}

/// A handshake in its time, and as long as it has its place.
pub(super) async fn shake<C: XmppCore, T>(
    hub: &Hub<C>,
    mut place: Option<Place>,
    shaking: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let time = hub.config().limits.handshake_timeout;
    let given_up = async {
        match &mut place {
            Some(place) => place.given_up().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        shaken = tokio::time::timeout(time, shaking) => {
            shaken.map_err(|_| "timed out".to_owned())?
        }
        () = given_up => Err("it took long, and others waited".to_owned()),
    }
}

/// Makes the handshake where it keeps nobody else waiting; those of our own servers, here.
pub(super) async fn aside<C: XmppCore, F>(
    hub: &Hub<C>,
    side: XmppSide,
    stream: TcpStream,
    accept: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> Result<ServerStream<TcpStream>, String>
where
    F: Future<Output = io::Result<ServerStream<TcpStream>>> + Send,
{
    let accepted = match side {
        XmppSide::Inside => accept(stream).await,
        XmppSide::Partner => {
            let accept = |stream| async { accept(stream).await.map(|stream| (stream, ())) };
            hub.low_priority.shake(stream, accept).await.map(|(stream, ())| stream)
        }
    };
    accepted.map_err(|error| error.to_string())
}

/// Whether a handshake more may begin.
pub(super) fn may_shake<C: XmppCore>(
    hub: &Hub<C>,
    remote: IpAddr,
    side: XmppSide,
) -> Result<(), String> {
    let config = hub.config();
    let limits = &config.limits;
    let (all, one) = (limits.handshakes_per_second, limits.handshakes_per_second_per_source);
    let may =
        side == XmppSide::Inside || hub.pace.take(std::time::Instant::now(), remote, all, one);
    if may { Ok(()) } else { Err("too many handshakes in a second".to_owned()) }
}
