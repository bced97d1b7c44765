//! The XMPP gateway's connection: no socket. What the core sends to it is queued for the gateway,
//! and what the gateway says is handed in like a message from outside.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{ShellHandle, hub::Way, queue::CloseCause};
use crate::{
    config::Transport,
    net::Core,
    proxy::{ConnectionId, Input, Peer, Side},
    sip::{Limits, Message},
};

/// Messages that wait for the gateway; more are dropped, and their senders time out.
const WAITING: usize = 4096;

/// The gateway's end of its connection. Dropped, the connection is gone.
#[derive(Debug)]
pub struct GatewayLink<C: Core> {
    shell: ShellHandle<C>,
    id: ConnectionId,
}

impl<C: Core> ShellHandle<C> {
    /// Opens the gateway's connection. What the core sends to it comes out of the channel.
    ///
    /// The address is no one's: it names the gateway in Via and in tokens, as a partner's edge is
    /// named by its own.
    pub fn open_gateway(&self, address: SocketAddr) -> (GatewayLink<C>, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let peer = Peer {
            side: Side::Gateway,
            transport: Transport::Tls,
            remote: address,
            local: address,
            names: Arc::default(),
            own: 0,
        };
        let link = self.hub.open(peer, false, Way::Gateway(sender), None);
        (GatewayLink { shell: self.clone(), id: link.id }, receiver)
    }
}

impl<C: Core> GatewayLink<C> {
    /// The gateway says something: one whole message. Whether it could be read; ours always can.
    pub fn say(&self, bytes: Bytes, limits: &Limits) -> bool {
        match Message::parse_datagram(bytes, limits) {
            Ok(message) => {
                let input = Input::Message { connection: self.id, message };
                self.shell.hub.deliver(&mut vec![input]);
                true
            }
            Err(error) => {
                tracing::error!(%error, "the XMPP gateway wrote a message that cannot be read");
                false
            }
        }
    }
}

impl<C: Core> Drop for GatewayLink<C> {
    fn drop(&mut self) {
        let link = self.shell.hub.links().into_iter().find(|link| link.id == self.id);
        if let Some(link) = link {
            self.shell.hub.close_link(&link, CloseCause::Unneeded);
        }
    }
}
