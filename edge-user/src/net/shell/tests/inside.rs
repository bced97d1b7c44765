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

/// RFC 3261 section 18.2.2, RFC 3581: by Via, and to the port that a request came from only where that is
/// asked for or nothing else is known.
#[tokio::test]
async fn an_answer_over_udp_goes_where_via_says() {
    let mut lab = lab(|config| tcp_and_udp(config, "127.0.0.0/8")).await;
    let port = lab.address(Side::Inside, Transport::Udp);
    let sender = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let listener = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let (from, named) = (sender.local_addr().unwrap(), listener.local_addr().unwrap());
    let mut buffer = [0; 2000];
    let mut peers = Vec::new();
    for (number, (sent_by, at)) in [
        (format!("x.example:{}", named.port()), &listener),
        (format!("x.example:{};rport", named.port()), &sender),
        (format!("x.example : {}", named.port()), &listener),
        ("x.example".to_owned(), &sender),
        ("x.example;rport".to_owned(), &sender),
        (format!("x.example:{}", from.port()), &sender),
    ]
    .iter()
    .enumerate()
    {
        let text =
            message(number).replace("sip.fabrikam.example;branch", &format!("{sent_by};branch"));
        sender.send_to(text.as_bytes(), port).await.unwrap();
        let (length, answered_by) =
            timeout(PATIENCE, at.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..length], answered_by), (text.as_bytes(), port), "{sent_by}");
        while let Ok(seen) = lab.seen.try_recv() {
            if let Seen::Opened(_, peer, _) = seen {
                peers.push(peer.remote);
            }
        }
    }
    assert_eq!(peers, [named, from], "one connection for each place where answers are heard");
    // What cannot be read has no Via to go by.
    let bad = message(9).replace("Call-ID: 9@", "Call-ID").replace("x.example", "y.example");
    sender.send_to(bad.as_bytes(), port).await.unwrap();
    let (length, _) = timeout(PATIENCE, sender.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert!(buffer[..length].starts_with(b"SIP/2.0 400 "));
}

/// Who names no port listens at 5060, where it is known there.
#[tokio::test]
async fn who_names_no_port_is_answered_at_5060_where_it_is_known_there() {
    let lab = lab(|config| tcp_and_udp(config, "127.0.0.0/8")).await;
    let port = lab.address(Side::Inside, Transport::Udp);
    let server = UdpSocket::bind("127.0.0.3:5060").await.unwrap();
    let sender = UdpSocket::bind("127.0.0.3:0").await.unwrap();
    let mut buffer = [0; 2000];
    for (number, (from, at)) in
        [(&sender, &sender), (&server, &server), (&sender, &server)].into_iter().enumerate()
    {
        from.send_to(message(number).as_bytes(), port).await.unwrap();
        let (length, _) = timeout(PATIENCE, at.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..length], message(number).as_bytes(), "{number}");
    }
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

/// Whoever stands inside and is none of our servers keeps these out no more than a stranger does.
#[tokio::test]
async fn who_is_not_listed_takes_no_servers_place_by_tls() {
    let inside = Authority::new("inside root");
    let pem = inside.pem.clone();
    let folder = Folder::new();
    let files = write_files(&folder, "inside", &inside.dns(&[OUR_NAME]), &pem);
    let mut lab = lab(|config| {
        config.inside.listen = vec![(Transport::Tls, "127.0.0.1:0".parse().unwrap())];
        config.inside.servers =
            vec![InsideServer::Name("director.contoso.example".parse().unwrap())];
        config.inside.tls = Some(files);
        config.limits.connections = 4;
        config.limits.handshake_timeout = 10 * PATIENCE;
    })
    .await;
    let to = lab.address(Side::Inside, Transport::Tls);
    let mut silent = Vec::new();
    for last in 1..=10 {
        silent.push(from(last, to).await);
    }
    let own = inside.dns(&["director.contoso.example"]);
    let mut client = tls_client(to, &inside, Some(&own)).await.unwrap();
    lab.opened().await;
    for last in 11..=20 {
        silent.push(from(last, to).await);
    }
    echo(&mut client, 1).await;
    lab.counted("closed.gave-way", 17).await;
}

#[tokio::test]
async fn who_sends_much_gives_way_to_others() {
    let mut lab = lab(|config| tcp_and_udp(config, "127.0.0.0/8")).await;
    let to = lab.address(Side::Inside, Transport::Tcp);
    let (much, little) =
        (TcpStream::connect(to).await.unwrap(), TcpStream::connect(to).await.unwrap());
    let of = |client: &TcpStream| client.local_addr().unwrap();
    let mut ids = std::collections::HashMap::new();
    for _ in 0..2 {
        let (id, peer) = lab.opened().await;
        ids.insert(peer.remote, id);
    }
    // Nothing is read while this goes on: there is no other thread.
    let text = message(1).repeat(1000);
    much.writable().await.unwrap();
    let written = much.try_write(text.as_bytes()).unwrap();
    little.writable().await.unwrap();
    little.try_write(message(2).as_bytes()).unwrap();
    assert!(written > 100_000, "{written}");
    let mut before = 0;
    loop {
        match lab.next().await {
            Seen::Message(id, _) if id == ids[&of(&little)] => break,
            Seen::Message(_, message) => before += message.bytes().len(),
            other => panic!("{other:?}"),
        }
    }
    assert!(before <= 64 * 1024, "{before} of {written}");
}
