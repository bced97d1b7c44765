//! Remote users' listener: the class of a connection is fixed by where it came and whether a
//! certificate did.

use super::*;
use crate::config::RemoteService;

fn own_listener(config: &mut Config) {
    let mut remote = RemoteService::at(vec!["127.0.0.1:0".parse().unwrap()]);
    remote.connections_per_source = 2;
    config.services.remote = Some(remote);
}

fn shared(config: &mut Config) {
    config.services.remote = Some(RemoteService { shared: true, ..RemoteService::at(vec![]) });
}

#[tokio::test]
async fn who_comes_to_the_remote_listener_is_a_remote_user_certificate_or_not() {
    let mut lab = lab(own_listener).await;
    let at = lab.address(Side::Remote, Transport::Tls);
    for own in [None, Some(lab.partner())] {
        let mut client = lab.connect(at, own.as_ref()).await.unwrap();
        let (id, peer) = lab.opened().await;
        assert_eq!((peer.side, peer.local), (Side::Remote, at));
        assert_eq!(peer.names.all().count(), 0, "nobody is asked for a certificate");
        echo(&mut client, 1).await;
        client.write_all(b"\r\n\r\n").await.unwrap();
        let mut pong = [0; 2];
        client.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"\r\n", "the flow is kept alive (RFC 5626)");
        client.shutdown().await.unwrap();
        assert_eq!(lab.closed().await, id);
    }
    lab.counted("open.remote", 0).await;
}

#[tokio::test]
async fn on_a_shared_port_only_who_has_no_certificate_is_a_remote_user() {
    let mut lab = lab(shared).await;
    let _remote = lab.connect(lab.access(), None).await.unwrap();
    assert_eq!(lab.opened().await.1.side, Side::Remote);
    let _partner = lab.connect(lab.access(), Some(&lab.partner())).await.unwrap();
    assert_eq!(lab.opened().await.1.side, Side::Partner);
    // A bad certificate is not as good as none.
    let stranger = Authority::new("nobody's root").dns(&[PARTNER]);
    if let Ok(mut client) = lab.connect(lab.access(), Some(&stranger)).await {
        assert_eq!(rest(&mut client).await, b"");
    }
    lab.counted("handshake.unknown-authority", 1).await;
    assert_eq!((lab.count("open.remote"), lab.count("open.access")), (1, 1));
}

#[tokio::test]
async fn who_signed_in_at_a_shared_port_is_let_in_during_a_flood_of_handshakes() {
    let mut lab = lab(|config| {
        shared(config);
        config.limits.handshakes_per_second = 1;
        config.limits.handshakes_per_second_per_source = 1000;
    })
    .await;
    let _signed_in = lab.connect(lab.access(), None).await.unwrap();
    let (connection, peer) = lab.opened().await;
    let event = Event::SignedIn { connection, remote: peer.remote };
    lab.shell.with_core(|_, _, out| out.push(Output::Event(event)));
    let _strangers = begun(1..=10, lab.access()).await;
    lab.counted("handshake.too-many", 1).await;
    let _again = lab.connect(lab.access(), None).await.unwrap();
    assert_eq!(lab.opened().await.1.side, Side::Remote);
}

#[tokio::test]
async fn without_that_the_access_service_lets_nobody_in_who_has_no_certificate() {
    let lab = lab(own_listener).await;
    if let Ok(mut client) = lab.connect(lab.access(), None).await {
        assert_eq!(rest(&mut client).await, b"");
    }
    lab.counted("closed.no-certificate", 1).await;
    assert_eq!(lab.count("accepted"), 0);
}

#[tokio::test]
async fn remote_users_have_places_and_sizes_of_their_own() {
    let mut lab = lab(own_listener).await;
    let at = lab.address(Side::Remote, Transport::Tls);
    let mut one = lab.connect(at, None).await.unwrap();
    let _two = lab.connect(at, None).await.unwrap();
    lab.opened().await;
    lab.opened().await;
    assert!(lab.connect(at, None).await.is_err(), "two from one source");
    let (_partner, _) = lab.partner_connected().await;
    // Before anybody has signed in on it, it is what anybody outside may send first.
    let first = lab.config.limits.first_request_bytes + 1;
    let long = message(1).replace("Content-Length: 2", &format!("Content-Length: {first}"));
    one.write_all(long.as_bytes()).await.unwrap();
    let answer = rest(&mut one).await;
    assert!(answer.starts_with(b"SIP/2.0 4"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn handshakes_of_remote_users_keep_no_partner_out() {
    let mut lab = lab(|config| {
        own_listener(config);
        config.limits.handshakes = 1;
        config.limits.handshakes_per_second = 2;
        config.limits.handshake_timeout = Duration::from_secs(60);
        config.services.remote.as_mut().unwrap().connections_per_source = 100;
    })
    .await;
    let at = lab.address(Side::Remote, Transport::Tls);
    // Each begins a handshake and does not go on; there are soon more than may be.
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(&[0x16]).await.unwrap();
        stuck.push(stream);
    }
    lab.counted("handshake.too-many", 1).await;
    let (mut partner, _) = timeout(PATIENCE, lab.partner_connected()).await.unwrap();
    echo(&mut partner, 1).await;
}

#[tokio::test]
async fn a_banned_source_is_refused_before_a_word_is_said() {
    for change in [own_listener, shared] {
        let mut lab = lab(change).await;
        lab.shell.with_core(|core, _, _| core.refused = vec!["127.0.0.1".parse().unwrap()]);
        let own = lab.config.services.remote.as_ref().is_some_and(|remote| !remote.shared);
        let at = if own { lab.address(Side::Remote, Transport::Tls) } else { lab.access() };
        if let Ok(mut client) = lab.connect(at, None).await {
            assert_eq!(rest(&mut client).await, b"");
        }
        lab.counted("closed.banned", 1).await;
        // A partner at the same address is not meant.
        let (_partner, _) = lab.partner_connected().await;
        lab.shell.with_core(|core, _, _| core.refused.clear());
        let _again = lab.connect(at, None).await.unwrap();
        assert_eq!(lab.opened().await.1.side, Side::Remote);
    }
}

#[tokio::test]
async fn connections_end_with_the_service() {
    let mut lab = lab(own_listener).await;
    let at = lab.address(Side::Remote, Transport::Tls);
    let mut client = lab.connect(at, None).await.unwrap();
    lab.opened().await;
    let mut config = (*lab.config).clone();
    config.services.remote = None;
    lab.rebind(config).await;
    assert_eq!(rest(&mut client).await, b"");
    lab.closed().await;
    assert!(lab.connect(at, None).await.is_err());
}
