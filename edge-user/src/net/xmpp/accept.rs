//! Listeners: how many come in, and TLS from the first byte where that is what the listener is for.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{LazyConfigAcceptor, TlsStream, rustls::server::Acceptor};

use super::{
    Door, XmppCore,
    hub::{Hub, Phase},
    status::add,
    stream::{self, Io},
};
use crate::{
    net::shell::{
        bind,
        limits::{Full, Place},
    },
    xmpp::io::{TlsPeer, XmppInput, XmppSide},
};

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
    if let Some(place) = enter(hub, remote.ip(), door.side) {
        bind::set_stream(&stream);
        tokio::spawn(serve(Arc::clone(hub), stream, remote, door, place));
    }
}

/// Takes a place, if there is one.
fn enter<C: XmppCore>(hub: &Hub<C>, remote: IpAddr, side: XmppSide) -> Option<Place> {
    let config = hub.config();
    let total = config.xmpp.limits.connections;
    let [outside, inside] = &hub.places;
    let entered = match side {
        XmppSide::Partner => outside.enter(remote, total, config.limits.connections_per_source),
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
    hub: Arc<Hub<C>>,
    stream: TcpStream,
    remote: SocketAddr,
    door: Door,
    _place: Place,
) {
    let Ok(local) = stream.local_addr() else { return };
    let (io, tls) = if door.direct_tls {
        match direct(&hub, stream, remote.ip(), door.side).await {
            Ok((io, tls)) => (io, Some(tls)),
            Err(fault) => {
                add(&hub.counters.handshake_failed);
                if let Some(left_out) = hub.counters.line() {
                    tracing::info!(%remote, fault, left_out, "XMPP: TLS handshake failed");
                }
                return;
            }
        }
    } else {
        (Io::Plain(stream), None)
    };
    let side = door.side;
    let link = hub.open((side, remote, false), tls, |stream, tls| XmppInput::Accepted {
        stream,
        side,
        remote,
        local,
        tls,
    });
    stream::run(&hub, &link, io).await;
}

/// TLS from the first byte (XEP-0368): the certificate goes by the name that is asked for.
async fn direct<C: XmppCore>(
    hub: &Arc<Hub<C>>,
    stream: TcpStream,
    remote: IpAddr,
    side: XmppSide,
) -> Result<(Io, TlsPeer), String> {
    let time = hub.config().limits.handshake_timeout;
    let shaking = async {
        // A peer that says nothing takes no place among the handshakes.
        stream.peek(&mut [0]).await.map_err(|error| error.to_string())?;
        may_shake(hub, remote, side)?;
        let _permit = hub.handshakes.acquire().await;
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .map_err(|error| error.to_string())?;
        let name = hello.client_hello().server_name().and_then(|name| name.parse().ok());
        let config = hub.tls.xmpp_server(name.as_ref(), true).ok_or("XMPP has no TLS files")?;
        hello.into_stream(config).await.map_err(|error| error.to_string())
    };
    let stream =
        tokio::time::timeout(time, shaking).await.map_err(|_| "timed out".to_owned())??;
    let peer = hub.tls.xmpp_peer(side, stream.get_ref().1);
    Ok((Io::Tls(Box::new(TlsStream::Server(stream))), peer))
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
