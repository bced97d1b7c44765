//! The internal listeners: only listed servers, by certificate name or by prefix.

use tokio::net::UdpSocket;

use super::*;
use crate::config::InsideServer;

fn tcp_and_udp(config: &mut Config, prefix: &str) {
    config.inside.listen = vec![
        (Transport::Tcp, "127.0.0.1:0".parse().unwrap()),
        (Transport::Udp, "127.0.0.1:0".parse().unwrap()),
    ];
    config.inside.servers = vec![InsideServer::Prefix(prefix.parse().unwrap())];
}

#[tokio::test]
async fn tcp_is_for_listed_prefixes() {
    let mut good = lab(|config| tcp_and_udp(config, "127.0.0.0/8")).await;
    let mut client = TcpStream::connect(good.address(Side::Inside, Transport::Tcp)).await.unwrap();
    let (_, peer) = good.opened().await;
    assert_eq!((peer.side, peer.transport), (Side::Inside, Transport::Tcp));
    echo(&mut client, 1).await;

    let bad = lab(|config| tcp_and_udp(config, "10.0.0.0/8")).await;
    let mut client = TcpStream::connect(bad.address(Side::Inside, Transport::Tcp)).await.unwrap();
    assert!(rest(&mut client).await.is_empty());
    bad.counted("closed.not-listed", 1).await;
    assert_eq!(bad.refusals()[0].0, Refusal::NotListed);
}

#[tokio::test]
async fn udp_is_for_listed_prefixes_and_answers_go_back() {
    let mut good = lab(|config| tcp_and_udp(config, "127.0.0.0/8")).await;
    let port = good.address(Side::Inside, Transport::Udp);
    let mut buffer = [0; 2000];
    let mut ids = Vec::new();
    for number in 0..2 {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(port).await.unwrap();
        client.send(b"\r\n\r\n").await.unwrap();
        for _ in 0..2 {
            client.send(message(number).as_bytes()).await.unwrap();
            let length = timeout(PATIENCE, client.recv(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(&buffer[..length], message(number).as_bytes());
        }
        let (id, peer) = good.opened().await;
        assert_eq!(peer.remote, client.local_addr().unwrap());
        ids.push(id);
        client.send(b"garbage").await.unwrap();
        loop {
            if let Seen::Unreadable(from) = good.next().await {
                assert_eq!(from, id);
                break;
            }
        }
    }
    assert_ne!(ids[0], ids[1], "one connection for each remote address");
    assert_eq!(good.shell.connections().len(), 2);
    assert_eq!(good.shell.close_where(|info| info.id == ids[0], REASON), 1);
    assert_eq!(good.closed().await, ids[0]);

    let bad = lab(|config| tcp_and_udp(config, "10.0.0.0/8")).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = bad.address(Side::Inside, Transport::Udp);
    client.send_to(message(1).as_bytes(), port).await.unwrap();
    bad.counted("closed.not-listed", 1).await;
    assert!(bad.shell.connections().is_empty());
}

#[tokio::test]
async fn tls_is_for_listed_names() {
    let inside = Authority::new("inside root");
    let pem = inside.pem.clone();
    let folder = Folder::new();
    let ours = inside.dns(&[OUR_NAME]);
    let files = write_files(&folder, "inside", &ours, &pem);
    let mut lab = lab(|config| {
        config.inside.listen = vec![(Transport::Tls, "127.0.0.1:0".parse().unwrap())];
        config.inside.servers = vec![
            InsideServer::Name("director.contoso.example".parse().unwrap()),
            // A prefix is no proof for TLS.
            InsideServer::Prefix("127.0.0.0/8".parse().unwrap()),
        ];
        config.inside.tls = Some(files);
    })
    .await;
    let to = lab.address(Side::Inside, Transport::Tls);
    let own = inside.dns(&["director.contoso.example"]);
    let mut client = tls_client(to, &inside, Some(&own)).await.unwrap();
    let (_, peer) = lab.opened().await;
    assert_eq!(peer.side, Side::Inside);
    echo(&mut client, 1).await;

    for (count, own) in [
        inside.dns(&["other.contoso.example"]),
        inside.dns(&["*.contoso.example"]),
        inside.dns(&["director.contoso.example.evil.example"]),
    ]
    .iter()
    .enumerate()
    {
        let mut client = tls_client(to, &inside, Some(own)).await.unwrap();
        assert!(rest(&mut client).await.is_empty());
        lab.counted("closed.not-listed", count as u64 + 1).await;
    }
    // A partner's certificate is none for the inside.
    let own = lab.partners.dns(&["director.contoso.example"]);
    if let Ok(mut client) = tls_client(to, &inside, Some(&own)).await {
        rest(&mut client).await;
    }
    lab.counted("handshake.unknown-authority", 1).await;
    assert_eq!(lab.shell.connections().len(), 1);
}
