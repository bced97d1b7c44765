//! Handshakes of strangers are made elsewhere, and end with all that could want them.

use super::*;
use crate::{config::InsideServer, net::low_priority::Busy};

/// Not at once, but before anybody loses patience.
const A_MOMENT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_strangers_handshake_keeps_neither_calls_nor_our_own_servers_waiting() {
    let inside = Authority::new("inside root");
    let folder = Folder::new();
    let files = write_files(&folder, "inside", &inside.dns(&[OUR_NAME]), &inside.pem);
    let director = "director.contoso.example";
    let (low, busy) = Busy::start();
    let mut lab = lab_on(low, None, |config| {
        config.inside.listen = vec![(Transport::Tls, "127.0.0.1:0".parse().unwrap())];
        config.inside.servers = vec![InsideServer::Name(director.parse().unwrap())];
        config.inside.tls = Some(files);
    })
    .await;
    let own = lab.partner();
    let mut stranger = Box::pin(tls_client(lab.access(), &lab.ours, Some(&own)));
    assert!(timeout(A_MOMENT, &mut stranger).await.is_err(), "it was made here");
    let to = lab.address(Side::Inside, Transport::Tls);
    let mut server = tls_client(to, &inside, Some(&inside.dns(&[director]))).await.unwrap();
    echo(&mut server, 1).await;
    busy.go_on();
    let mut partner = timeout(PATIENCE, stranger).await.unwrap().unwrap();
    echo(&mut partner, 2).await;
    let (first, second) = (lab.opened().await.1, lab.opened().await.1);
    assert_eq!((first.side, second.side), (Side::Inside, Side::Partner));
}

/// Also while the threads that would make it have no time at all.
#[tokio::test]
async fn a_handshake_that_does_not_come_to_its_turn_ends_in_time() {
    let (low, _busy) = Busy::start();
    let lab = lab_on(low, None, |config| {
        config.limits.handshake_timeout = A_MOMENT;
    })
    .await;
    assert!(timeout(PATIENCE, lab.connect(lab.access(), Some(&lab.partner()))).await.is_ok());
    lab.counted("handshake.handshake-timeout", 1).await;
}

#[tokio::test]
async fn without_threads_for_it_no_handshake_succeeds() {
    let (low, busy) = Busy::start();
    busy.end();
    let lab = lab_on(low, None, |_| ()).await;
    assert!(lab.connect(lab.access(), Some(&lab.partner())).await.is_err());
    lab.counted("handshake.tls-protocol", 1).await;
}

#[tokio::test]
async fn a_drain_ends_handshakes_under_way() {
    let lab = lab(|config| config.limits.handshake_timeout = Duration::from_secs(600)).await;
    let mut begun = TcpStream::connect(lab.access()).await.unwrap();
    begun.write_all(&[0x16, 3, 1]).await.unwrap();
    lab.counted("open.access", 1).await;
    lab.shell.with_core(|core, _, _| core.live = 1);
    let shell = lab.shell.clone();
    let draining = tokio::spawn(async move { shell.drain(Duration::from_secs(600)).await });
    let ended = timeout(PATIENCE, begun.read(&mut [0; 16])).await.expect("closed at once");
    assert!(matches!(ended, Ok(0) | Err(_)));
    lab.shell.with_core(|core, _, _| core.live = 0);
    timeout(PATIENCE, draining).await.unwrap().unwrap();
}
