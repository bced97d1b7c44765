//! What changes while connections live: certificates, listeners, blocks, the end.

use super::*;
use crate::config::InsideServer;

#[tokio::test]
async fn a_new_certificate_is_used_by_the_next_handshake_and_old_connections_live_on() {
    let mut lab = lab(|_| ()).await;
    let (mut old, _) = lab.partner_connected().await;
    let shown = |client: &Client| client.get_ref().1.peer_certificates().unwrap()[0].clone();
    let first = shown(&old);

    lab.folder.write("edge.pem", "half-written", 0o644);
    assert!(lab.tls.reload(&lab.config).is_err());
    let (mut second, _) = lab.partner_connected().await;
    assert_eq!(shown(&second), first, "a bad reload keeps the old");

    let new = lab.ours.dns(&[OUR_NAME]);
    write_files(&lab.folder, "edge", &new, &lab.partners.pem);
    lab.tls.reload(&lab.config).unwrap();
    let (mut third, _) = lab.partner_connected().await;
    assert_eq!(shown(&third), new.chain()[0]);
    for client in [&mut old, &mut second, &mut third] {
        echo(client, 1).await;
    }

    // Another trust store: who was trusted before is not any more.
    let other = Authority::new("new partners' root");
    write_files(&lab.folder, "edge", &new, &other.pem);
    lab.tls.reload(&lab.config).unwrap();
    if let Ok(mut client) = lab.connect(lab.access(), Some(&lab.partner())).await {
        rest(&mut client).await;
    }
    lab.counted("handshake.unknown-authority", 1).await;
    echo(&mut old, 2).await;
}

#[tokio::test]
async fn a_connection_is_closed_after_its_last_words() {
    let mut lab = lab(|_| ()).await;
    let (mut client, connection) = lab.partner_connected().await;
    lab.shell.with_core(|_, _, out| {
        for part in ["first ", "second ", "last"] {
            out.push(Output::Send { connection, bytes: part.into() });
        }
        out.push(Output::Close { connection, reason: REASON });
        out.push(Output::Send { connection, bytes: "too late".into() });
    });
    assert_eq!(rest(&mut client).await, b"first second last");
    assert_eq!(lab.closed().await, connection);
    assert_eq!(lab.count("closed.domain-blocked"), 1);
    lab.shell.with_core(|_, _, out| {
        out.push(Output::Send { connection, bytes: "to nobody".into() });
        out.push(Output::Close { connection, reason: REASON });
    });
    assert_eq!(lab.count("sent-to-closed"), 1);
}

#[tokio::test]
async fn every_connection_of_a_domain_can_be_closed_and_others_stay() {
    let mut lab = lab(|_| ()).await;
    let (mut good, _) = lab.partner_connected().await;
    let bad = lab.partners.dns(&["sip.bad.example"]);
    let mut blocked = Vec::new();
    for _ in 0..3 {
        blocked.push(lab.connect(lab.access(), Some(&bad)).await.unwrap());
        lab.opened().await;
    }
    let name = "sip.bad.example".parse().unwrap();
    assert_eq!(lab.shell.close_where(|info| info.peer.names.holds(&name), REASON), 3);
    for client in &mut blocked {
        assert!(rest(client).await.is_empty());
        lab.closed().await;
    }
    echo(&mut good, 1).await;
    assert_eq!(lab.shell.connections().len(), 1);
}

/// Sooner than the kernel gives up a peer that takes nothing, after 30 s.
const AT_ONCE: Duration = Duration::from_secs(15);

/// A port that is free, at an address of no other tests: nobody takes it meanwhile.
fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.7.1:0").unwrap().local_addr().unwrap()
}

impl Lab {
    /// Sends until a connection's peer, which reads nothing, takes no more.
    async fn stuff(&self, connection: ConnectionId) {
        let bytes = bytes::Bytes::from(vec![b'x'; 32 * 1024]);
        let mut sent = 0;
        loop {
            let bytes = bytes.clone();
            self.shell.with_core(|_, _, out| out.push(Output::Send { connection, bytes }));
            // The task has turns enough to write what can be written.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            let all = self.shell.connections();
            let Some(info) = all.iter().find(|info| info.id == connection) else { return };
            if info.bytes_out == sent {
                return;
            }
            sent = info.bytes_out;
        }
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_closed_at_once_when_its_queue_is_full() {
    let mut lab = lab(|config| config.limits.write_queue_bytes = 64 * 1024).await;
    let (_client, connection) = lab.partner_connected().await;
    let (mut other, _) = lab.partner_connected().await;
    lab.stuff(connection).await;
    let started = Instant::now();
    lab.stuff(connection).await;
    lab.stuff(connection).await;
    assert_eq!(lab.closed().await, connection);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    assert_eq!(lab.count("closed.slow-receiver"), 1);
    echo(&mut other, 1).await;
}

#[tokio::test]
async fn a_block_ends_a_connection_whose_peer_does_not_read() {
    let mut lab = lab(|_| ()).await;
    let (_client, connection) = lab.partner_connected().await;
    lab.stuff(connection).await;
    let started = Instant::now();
    assert_eq!(lab.shell.close_where(|_| true, REASON), 1);
    assert_eq!(lab.closed().await, connection);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    assert_eq!(lab.count("closed.domain-blocked"), 1);
}

#[tokio::test]
async fn the_cores_time_comes_and_an_earlier_time_comes_earlier() {
    let mut lab = lab(|_| ()).await;
    let started = Instant::now();
    for wait in [Duration::from_secs(3600), Duration::from_millis(100)] {
        lab.shell.with_core(|core, now, _| core.timeout = Some(now + wait));
    }
    assert!(matches!(lab.next().await, Seen::Timeout));
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(100) && took < PATIENCE, "{took:?}");
}

#[tokio::test]
async fn rebinding_moves_listeners_and_leaves_connections() {
    let mut lab = lab(|config| {
        config.inside.listen = vec![(Transport::Tcp, "127.0.0.1:0".parse().unwrap())];
        config.inside.servers = vec![InsideServer::Prefix("127.0.0.0/8".parse().unwrap())];
    })
    .await;
    let (mut partner, _) = lab.partner_connected().await;
    let inside_at = lab.address(Side::Inside, Transport::Tcp);
    let mut inside = TcpStream::connect(inside_at).await.unwrap();
    let (inside_id, _) = lab.opened().await;
    let before = lab.shell.listening();

    // A listener that cannot be had: nothing changes.
    let mut config = (*lab.config).clone();
    config.access.listen = vec!["192.0.2.77:5061".parse().unwrap()];
    config.inside.servers = Vec::new();
    assert!(lab.shell.bind(&Arc::new(config)).await.is_err());
    assert_eq!(lab.shell.listening(), before);
    echo(&mut inside, 1).await;

    // Nor does what is bound and then not used: its address is free again.
    let free = free_port();
    let mut config = (*lab.config).clone();
    config.access.listen = vec![free];
    config.inside.servers = Vec::new();
    let unused = lab.shell.bind(&Arc::new(config)).await.unwrap();
    std::net::TcpListener::bind(free).unwrap_err();
    drop(unused);
    std::net::TcpListener::bind(free).unwrap();
    assert_eq!(lab.shell.listening(), before);
    echo(&mut inside, 4).await;

    let old_access = lab.access();
    let mut config = (*lab.config).clone();
    config.access.listen = vec!["[::1]:0".parse().unwrap()];
    config.inside.servers = Vec::new();
    lab.rebind(config).await;
    assert!(lab.access().is_ipv6());
    assert!(TcpStream::connect(old_access).await.is_err(), "the old address is free");
    assert_eq!(lab.closed().await, inside_id, "no longer listed");
    assert!(rest(&mut inside).await.is_empty());
    echo(&mut partner, 2).await;
    let (mut new, _) = lab.partner_connected().await;
    echo(&mut new, 3).await;
}

#[tokio::test]
async fn a_stop_waits_for_live_work_and_closes_everything() {
    let mut lab = lab(|config| {
        config.inside.listen = vec![(Transport::Udp, "127.0.0.1:0".parse().unwrap())];
    })
    .await;
    let (mut client, id) = lab.partner_connected().await;
    lab.shell.with_core(|core, _, _| core.live = 1);
    let access = lab.access();
    let shell = lab.shell.clone();
    let draining = tokio::spawn(async move { shell.drain(Duration::from_secs(60)).await });
    let refusing = async {
        while TcpStream::connect(access).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, refusing).await.expect("no new connections");
    echo(&mut client, 1).await;
    assert!(!draining.is_finished());
    lab.shell.with_core(|core, _, _| core.live = 0);
    let drained = timeout(PATIENCE, draining).await.unwrap().unwrap();
    assert_eq!(drained, Drained { live_left: 0, closed: 1 });
    assert!(rest(&mut client).await.is_empty());
    assert_eq!(lab.closed().await, id);
    assert!(lab.shell.listening().is_empty());
    assert_eq!(lab.shell.drain(Duration::from_secs(60)).await.closed, 0, "again: nothing to do");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let mut lab = lab(|_| ()).await;
    let (_client, _) = lab.partner_connected().await;
    lab.shell.with_core(|core, _, _| core.live = 3);
    let drained = timeout(PATIENCE, lab.shell.drain(Duration::from_millis(100))).await.unwrap();
    assert_eq!(drained, Drained { live_left: 3, closed: 1 });
}

#[tokio::test]
async fn a_start_that_fails_names_the_address_and_leaves_nothing() {
    let lab = lab(|_| ()).await;
    let taken = lab.access();
    let mut config = (*lab.config).clone();
    let free = free_port();
    config.access.listen = vec![free, taken];
    let config = Arc::new(config);
    let error = Shell::bind(&config).unwrap_err();
    assert_eq!(error.address, taken);
    std::net::TcpListener::bind(free).expect("free again");
}

#[tokio::test]
async fn a_fault_of_ours_ends_one_connection_and_no_other() {
    let mut lab = lab(|_| ()).await;
    let (mut good, _) = lab.partner_connected().await;
    let (mut bad, bad_id) = lab.partner_connected().await;
    bad.write_all(message(1).replace("MESSAGE", "PANIC").as_bytes()).await.unwrap();
    assert!(rest(&mut bad).await.is_empty());
    assert_eq!(lab.closed().await, bad_id);
    echo(&mut good, 1).await;
    assert_eq!(lab.shell.connections().len(), 1);
    lab.counted("open.access", 1).await;
    let waiting = async {
        while lab.count("open.access") > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("its place is free");
}

#[tokio::test]
async fn new_limits_hold_for_connections_that_live() {
    let hour = Duration::from_secs(3600);
    let mut lab = lab(|config| {
        (config.limits.message_timeout, config.limits.idle_timeout) = (hour, hour);
    })
    .await;
    let (mut client, id) = lab.partner_connected().await;
    let (mut slow, slow_id) = lab.partner_connected().await;
    let (_silent, silent_id) = lab.partner_connected().await;
    echo(&mut client, 1).await;
    lab.proved(id);
    echo(&mut client, 2).await;
    slow.write_all(&message(1).as_bytes()[..10]).await.unwrap();
    slow.flush().await.unwrap();
    let mut config = (*lab.config).clone();
    config.limits.head_bytes = 1024;
    config.limits.message_timeout = Duration::from_millis(500);
    lab.rebind(config.clone()).await;
    assert_eq!(lab.closed().await, slow_id);
    lab.counted("closed.slow-sender", 1).await;
    echo(&mut client, 3).await;
    let long = message(4).replacen("\r\n", &format!("\r\nX: {}\r\n", "x".repeat(1024)), 1);
    client.write_all(long.as_bytes()).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(lab.closed().await, id);
    config.limits.idle_timeout = Duration::from_millis(500);
    lab.rebind(config).await;
    assert_eq!(lab.closed().await, silent_id);
    lab.counted("closed.idle", 1).await;
}
