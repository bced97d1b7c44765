//! Sockets: how they are made and set.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::BindError;
use crate::config::Transport;

/// Connections that wait for `accept`.
const BACKLOG: u32 = 1024;
/// What was sent and is not acknowledged for this long breaks the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// First probe of a silent connection, the time between probes, and their number.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// What may wait in a UDP socket, either way: some thousands of messages. With the system's default
/// it is a hundred, and those that come while a thread does something else are lost.
const UDP_BUFFER: usize = 4 << 20;

/// A listening TCP socket. An IPv6 one takes IPv6 only.
pub(in crate::net) fn tcp(
    transport: Transport,
    address: SocketAddr,
) -> Result<TcpListener, BindError> {
    let bound = || -> io::Result<TcpListener> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => {
                let socket = TcpSocket::new_v6()?;
                sockopt::set_ipv6_v6only(&socket, true)?;
                socket
            }
        };
        // A restart must not wait for connections that linger.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|error| BindError::new(transport, address, &error))
}

/// A UDP socket. An IPv6 one takes IPv6 only.
pub(in crate::net) fn udp(address: SocketAddr) -> Result<UdpSocket, BindError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let bound = || -> io::Result<UdpSocket> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        set_datagrams(socket.as_fd());
        rustix::net::bind(&socket, &address)?;
        UdpSocket::from_std(std::net::UdpSocket::from(socket))
    };
    bound().map_err(|error| BindError::new(Transport::Udp, address, &error))
}

/// Connects. `from`: leave by this address of ours where it can be.
pub(in crate::net) async fn connect(
    to: SocketAddr,
    from: Option<SocketAddr>,
) -> io::Result<TcpStream> {
    use io::ErrorKind as K;
    if let Some(from) = from {
        match connect_from(to, Some(from)).await {
            // Not a way from there: let the system choose.
            Err(error)
                if matches!(
                    error.kind(),
                    K::AddrNotAvailable | K::InvalidInput | K::NetworkUnreachable
                ) => {}
            result => return result,
        }
    }
    connect_from(to, None).await
}

async fn connect_from(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from {
        socket.bind(from)?;
    }
    socket.connect(to).await
}

/// Settings of every stream: no waiting to join small writes, and dead peers are noticed.
pub(in crate::net) fn set_stream(stream: &TcpStream) {
    let set = |socket: &TcpStream| -> io::Result<()> {
        let (idle, interval, count) = KEEP_ALIVE;
        let fd = socket.as_fd();
        sockopt::set_tcp_nodelay(fd, true)?;
        sockopt::set_socket_keepalive(fd, true)?;
        sockopt::set_tcp_keepidle(fd, idle)?;
        sockopt::set_tcp_keepintvl(fd, interval)?;
        sockopt::set_tcp_keepcnt(fd, count)?;
        sockopt::set_tcp_user_timeout(fd, u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(0))?;
        Ok(())
    };
    if let Err(error) = set(stream) {
        tracing::debug!(%error, "socket options");
    }
}

/// Buffers of a UDP socket. Without CAP_NET_ADMIN the system's bound (`net.core.rmem_max`,
/// `wmem_max`) holds.
fn set_datagrams(socket: BorrowedFd<'_>) {
    let receive = sockopt::set_socket_recv_buffer_size_force(socket, UDP_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, UDP_BUFFER));
    let send = sockopt::set_socket_send_buffer_size_force(socket, UDP_BUFFER)
        .or_else(|_| sockopt::set_socket_send_buffer_size(socket, UDP_BUFFER));
    if let Err(error) = receive.and(send) {
        tracing::debug!(%error, "socket options");
    }
}

impl BindError {
    pub(in crate::net) fn new(
        transport: Transport,
        address: SocketAddr,
        error: &io::Error,
    ) -> Self {
        let mend = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there (`ss -lntup` names it): stop it, or choose another \
                 address or port"
            }
            io::ErrorKind::AddrNotAvailable => {
                "no interface has this address (`ip address`): give it to one, or correct `listen`"
            }
            io::ErrorKind::PermissionDenied => {
                "a port below 1024 needs CAP_NET_BIND_SERVICE: run as the packaged service does"
            }
            _ => "correct `listen`, or see the system's log",
        };
        Self { transport, address, fault: error.to_string(), mend }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bind_error_names_address_and_mend() {
        let taken = tcp(Transport::Tcp, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        let text = tcp(Transport::Tls, address).unwrap_err().to_string();
        assert!(text.contains(&address.to_string()) && text.contains("ss -lntup"), "{text}");

        let foreign = "192.0.2.77:5060".parse().unwrap();
        for text in [
            tcp(Transport::Tcp, foreign).unwrap_err().to_string(),
            udp(foreign).unwrap_err().to_string(),
        ] {
            assert!(text.contains("192.0.2.77:5060") && text.contains("ip address"), "{text}");
        }
    }

    /// Runs as root, as the daemon has CAP_NET_ADMIN.
    #[tokio::test]
    async fn a_burst_of_datagrams_waits_to_be_read() {
        const MANY: usize = 2000;
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let [to, from] = [(); 2].map(|()| udp(address.parse().unwrap()).unwrap());
            let there = to.local_addr().unwrap();
            from.writable().await.unwrap();
            for _ in 0..MANY {
                from.try_send_to(&[b'x'; 800], there).unwrap();
            }
            to.readable().await.unwrap();
            let mut buffer = [0; 1000];
            let came = std::iter::from_fn(|| to.try_recv(&mut buffer).ok()).count();
            assert_eq!(came, MANY, "{address}");
        }
    }

    #[tokio::test]
    async fn an_ipv6_listener_leaves_ipv4_alone() {
        let six = tcp(Transport::Tcp, "[::]:0".parse().unwrap()).unwrap();
        let port = six.local_addr().unwrap().port();
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
        assert!(TcpStream::connect(("::1", port)).await.is_ok());
        let six = udp("[::]:0".parse().unwrap()).unwrap();
        let port = six.local_addr().unwrap().port();
        assert!(std::net::UdpSocket::bind(("0.0.0.0", port)).is_ok());
    }
}
