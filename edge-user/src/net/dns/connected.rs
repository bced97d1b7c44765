//! hickory's sockets, but each UDP socket is connected to its name server.
//!
//! The kernel half lets in a UDP reply only for a connected socket (the trust rules, section 7);
//! a bound one would let strangers reach every resolver port. A connected socket also hears at
//! once that nobody listens, and the kernel discards what comes from any other address.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hickory_resolver::net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime,
};
use tokio::{io::ReadBuf, net::UdpSocket};

/// Makes the sockets.
#[derive(Clone, Default)]
pub(super) struct ConnectedProvider(TokioRuntimeProvider);

impl RuntimeProvider for ConnectedProvider {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = ConnectedUdp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server_addr: SocketAddr,
        bind_addr: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        self.0.connect_tcp(server_addr, bind_addr, timeout)
    }

    fn bind_udp(
        &self,
        local_addr: SocketAddr,
        server_addr: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        Box::pin(ConnectedUdp::new(local_addr, server_addr))
    }
}

/// A UDP socket that talks to one name server only.
#[derive(Debug)]
pub(super) struct ConnectedUdp {
    socket: UdpSocket,
    server: SocketAddr,
}

impl ConnectedUdp {
    async fn new(local: SocketAddr, server: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(local).await?;
        socket.connect(server).await?;
        Ok(Self { socket, server })
    }
}

impl DnsUdpSocket for ConnectedUdp {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buf = ReadBuf::new(buf);
        ready!(self.socket.poll_recv(cx, &mut buf))?;
        Poll::Ready(Ok((buf.filled().len(), self.server)))
    }

    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
        target: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        if target != self.server {
            let fault = "a resolver's socket sends to its own name server only";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidInput, fault)));
        }
        self.socket.poll_send(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// What the kernel half relies on: state 1 (connected) in the kernel's table, and nothing
    /// from any other address.
    #[tokio::test]
    async fn a_resolvers_socket_is_connected_and_deaf_to_others() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(any).await.unwrap();
            let stranger = UdpSocket::bind(any).await.unwrap();
            let to = server.local_addr().unwrap();
            let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let provider = ConnectedProvider::default();
            let socket = provider.bind_udp(local.parse().unwrap(), to).await.unwrap();
            assert_eq!(socket.socket.peer_addr().unwrap(), to, "getpeername");
            let address = socket.socket.local_addr().unwrap();

            stranger.send_to(b"forged", address).await.unwrap();
            poll_fn(|cx| socket.poll_send_to(cx, b"question", to)).await.unwrap();
            let mut buf = [0; 64];
            let (length, from) = server.recv_from(&mut buf).await.unwrap();
            assert_eq!((&buf[..length], from.port()), (&b"question"[..], address.port()));
            server.send_to(b"answer", from).await.unwrap();

            let (length, from) = poll_fn(|cx| socket.poll_recv_from(cx, &mut buf)).await.unwrap();
            assert_eq!((&buf[..length], from), (&b"answer"[..], to));
        }
    }

    #[tokio::test]
    async fn a_resolvers_socket_sends_nowhere_else() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let socket = ConnectedProvider::default()
            .bind_udp("0.0.0.0:0".parse().unwrap(), server.local_addr().unwrap())
            .await
            .unwrap();
        let sent = poll_fn(|cx| socket.poll_send_to(cx, b"x", other)).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
