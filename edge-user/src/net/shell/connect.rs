//! Connections we open.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{
    bind,
    counters::add,
    hub::{Hub, Phase, Way},
    limits::Counted,
    queue::WriteQueue,
    stream,
};
use crate::{
    config::Transport,
    federation::CertificateNames,
    net::{Core, tls},
    proxy::{AttemptId, ConnectError, Input, Peer, Side, Target},
};

/// Connects and carries the connection to its end.
pub(super) async fn connect<C: Core>(hub: Arc<Hub<C>>, attempt: AttemptId, target: Target) {
    if let Err(error) = try_connect(&hub, attempt, &target).await {
        add(&hub.counters.connect_failed);
        if let Some(left_out) = hub.counters.line() {
            tracing::warn!(address = %target.address, name = ?target.server_name.as_ref().map(|n| n.as_str()), %error, left_out, "no connection");
        }
        hub.drive(|core, now, out| {
            core.handle(now, Input::ConnectFailed { attempt, error }, out);
        });
    }
}

async fn try_connect<C: Core>(
    hub: &Arc<Hub<C>>,
    attempt: AttemptId,
    target: &Target,
) -> Result<(), ConnectError> {
    let settings = hub.settings();
    if *hub.phase.borrow() == Phase::Stopped {
        return Err(ConnectError::Tcp("the appliance is stopping".to_owned()));
    }
    if target.transport == Transport::Udp {
        return datagram(hub, attempt, target);
    }
    let limits = &settings.config.limits;
    let place = Counted::enter(&hub.outbound, limits.connections).ok_or(ConnectError::Limit)?;
    let from = match target.side {
        Side::Partner => source_address(&settings.config.access.listen, target.address),
        Side::Inside => None,
        Side::Remote => {
            return Err(ConnectError::Tcp("nobody connects to remote users".to_owned()));
        }
        Side::Gateway => {
            return Err(ConnectError::Tcp("the gateway is here, or not at all".to_owned()));
        }
    };
    let time = limits.handshake_timeout;
    let queue = WriteQueue::new(limits.write_queue_bytes);
    let stream = tcp(target.address, from, time).await?;
    let local = stream.local_addr().map_err(|e| ConnectError::Tcp(e.to_string()))?;
    let mut peer = Peer {
        side: target.side,
        transport: target.transport,
        remote: target.address,
        local,
        names: Arc::default(),
        own: target.own,
    };
    drop(settings);
    if target.transport == Transport::Tcp {
        let link = hub.open(peer, true, Way::Stream(queue), Some(attempt));
        stream::carry(hub, link, stream, place);
        return Ok(());
    }
    let (stream, names) = handshake(hub, stream, target, time).await?;
    peer.names = Arc::new(names);
    let chain = hub.tls.keep(stream.get_ref().1.peer_certificates());
    let link = hub.open_to_server(peer, Way::Stream(queue), attempt, chain);
    stream::carry(hub, link, stream, place);
    Ok(())
}

async fn tcp(
    to: SocketAddr,
    from: Option<SocketAddr>,
    time: Duration,
) -> Result<TcpStream, ConnectError> {
    let stream = tokio::time::timeout(time, bind::connect(to, from))
        .await
        .map_err(|_| ConnectError::Tcp("timed out".to_owned()))?
        .map_err(|error| ConnectError::Tcp(error.to_string()))?;
    bind::set_stream(&stream);
    Ok(stream)
}

type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

async fn handshake<C: Core>(
    hub: &Arc<Hub<C>>,
    stream: TcpStream,
    target: &Target,
    time: Duration,
) -> Result<(ClientStream, CertificateNames), ConnectError> {
    let refused = |why: &str| ConnectError::Tls(why.to_owned());
    if target.side == Side::Partner && target.server_name.is_none() {
        return Err(refused("a partner's server must be known by a name to expect"));
    }
    let config = hub
        .tls
        .client_as(target.side, target.own)
        .ok_or_else(|| refused("no TLS files are configured for it"))?;
    let name = tls::server_name(target.server_name.as_ref(), target.address.ip());
    let shaking = TlsConnector::from(config).connect(name, stream);
    let done = match tokio::time::timeout(time, shaking).await {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates();
            hub.tls.peer_names(target.side, chain).map(|names| (stream, names))
        }
        Ok(Err(error)) => Err(tls::HandshakeError::from(error)),
        Err(_) => Err(tls::HandshakeError::timeout()),
    };
    done.map_err(|error| {
        hub.counters.handshake(error.fault);
        ConnectError::Tls(error.named())
    })
}

/// A pseudo connection over one of the internal UDP listeners: answers come to its port.
fn datagram<C: Core>(
    hub: &Arc<Hub<C>>,
    attempt: AttemptId,
    target: &Target,
) -> Result<(), ConnectError> {
    let ports = hub.ports.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let port = ports
        .iter()
        .find(|port| port.local().is_ipv4() == target.address.is_ipv4())
        .filter(|_| target.side == Side::Inside)
        .cloned();
    drop(ports);
    let port = port.ok_or_else(|| {
        ConnectError::Tcp("no internal UDP listener of this address family".to_owned())
    })?;
    port.open(hub, target.address, Some(attempt)).map(drop).ok_or(ConnectError::Limit)
}

/// The access service's own address of the same family: partners' firewalls know it.
fn source_address(listen: &[SocketAddr], to: SocketAddr) -> Option<SocketAddr> {
    let of_family = |a: &&SocketAddr| a.is_ipv4() == to.is_ipv4() && !a.ip().is_unspecified();
    let ip: IpAddr = listen.iter().find(of_family)?.ip();
    Some(SocketAddr::new(ip, 0))
}
