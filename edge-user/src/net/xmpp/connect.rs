//! Streams we open.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream, rustls::pki_types::ServerName};

use super::{
    XmppCore,
    hub::{Hub, Phase},
    status::add,
    stream::{self, Io},
};
use crate::{
    domain::Domain,
    net::shell::{bind, limits::Counted},
    xmpp::io::{DialId, TlsPeer, XmppInput, XmppSide, XmppTarget},
};

/// Connects and carries the stream to its end.
pub(super) async fn connect<C: XmppCore>(hub: Arc<Hub<C>>, dial: DialId, target: XmppTarget) {
    if let Err(fault) = try_connect(&hub, dial, &target).await {
        add(&hub.counters.connect_failed);
        if let Some(left_out) = hub.counters.line() {
            let (address, domain) = (target.address, target.server_name.as_str());
            tracing::warn!(%address, domain, fault, left_out, "no XMPP stream");
        }
        hub.input(XmppInput::ConnectFailed { dial, fault });
    }
}

async fn try_connect<C: XmppCore>(
    hub: &Arc<Hub<C>>,
    dial: DialId,
    target: &XmppTarget,
) -> Result<(), String> {
    if *hub.phase.borrow() >= Phase::Stopping {
        return Err("the appliance is stopping".to_owned());
    }
    let config = hub.config();
    let limit = config.xmpp.limits.connections;
    let place = Counted::enter(&hub.outbound, limit).ok_or_else(|| {
        format!("{limit} streams of ours are open, the bound of xmpp.connections")
    })?;
    let listen = config.services.xmpp.as_ref().map_or(&[][..], |service| &service.listen);
    let from = match target.side {
        XmppSide::Partner => source_address(listen, target.address),
        XmppSide::Inside => None,
    };
    let time = config.limits.handshake_timeout;
    let stream = tokio::time::timeout(time, bind::connect(target.address, from))
        .await
        .map_err(|_| "no TCP connection: timed out".to_owned())?
        .map_err(|error| format!("no TCP connection: {error}"))?;
    stream::set_socket(&stream);
    drop(config);
    let (io, tls) = if target.direct_tls {
        let shaking = client(hub, stream, target.side, (&target.local, &target.server_name), true);
        let shaken = tokio::time::timeout(time, shaking).await;
        let (io, tls) = shaken
            .map_err(|_| "no TLS session: timed out".to_owned())?
            .map_err(|fault| format!("no TLS session: {fault}"))?;
        (io, Some(tls))
    } else {
        (Io::Plain(stream), None)
    };
    let link = hub.open((target.side, target.address, true), tls, |stream, tls| {
        XmppInput::Connected { dial, stream, tls }
    });
    stream::run(hub, &link, io, place).await;
    Ok(())
}

/// The handshake of a stream of ours, for a local and a remote domain.
pub(super) async fn client<C: XmppCore>(
    hub: &Arc<Hub<C>>,
    stream: TcpStream,
    side: XmppSide,
    (local, remote): (&Domain, &Domain),
    direct: bool,
) -> Result<(Io, TlsPeer), String> {
    let config = hub.tls.xmpp_client(local, direct).ok_or("XMPP has no TLS files")?;
    let name = ServerName::try_from(remote.as_str().to_owned()).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())?;
    let peer = hub.tls.xmpp_peer(side, stream.get_ref().1);
    Ok((Io::Tls(Box::new(TlsStream::Client(stream))), peer))
}

/// The service's own address of the same family: partners' firewalls know it.
fn source_address(listen: &[SocketAddr], to: SocketAddr) -> Option<SocketAddr> {
    let of_family = |a: &&SocketAddr| a.is_ipv4() == to.is_ipv4() && !a.ip().is_unspecified();
    Some(SocketAddr::new(listen.iter().find(of_family)?.ip(), 0))
}
