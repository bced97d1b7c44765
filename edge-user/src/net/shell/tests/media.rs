//! Media flows are in force before what announces them leaves.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::TcpStream as Blocking,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use super::*;
use crate::{
    config::InsideServer,
    media::flow::{
        CallId, Component, Flow, FlowContent, FlowId, FlowTally, MediaChange, MediaSide, Way,
    },
};

/// Records what it is told, and looks whether the client has anything yet.
#[derive(Default)]
struct Recorder {
    changes: Mutex<Vec<MediaChange>>,
    client: Mutex<Option<Blocking>>,
    fails: AtomicBool,
    /// When set, flows have no way yet: told of when that is looked for, and that it is found.
    ways: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

impl MediaSink for Recorder {
    fn apply(&self, changes: &[MediaChange], began: Instant) -> MediaApplied {
        if let Some(client) = &*self.client.lock().unwrap() {
            // Long enough for anything that was sent before to arrive.
            std::thread::sleep(Duration::from_millis(50));
            let early = client.peek(&mut [0]).map_err(|fault| fault.kind());
            assert_eq!(early, Err(ErrorKind::WouldBlock), "it was announced already");
        }
        assert!(began.elapsed() < PATIENCE);
        self.changes.lock().unwrap().extend(changes.to_vec());
        let mut calls = BTreeMap::new();
        for change in changes {
            if let MediaChange::Open(flow) = change {
                let tally: &mut FlowTally = calls.entry(flow.call).or_default();
                tally.opened += 1;
            }
        }
        let fault = self.fails.load(Ordering::Relaxed).then(|| "full".to_owned());
        let unsettled = self.ways.lock().unwrap().is_some();
        MediaApplied { calls, fault, unsettled }
    }

    fn settle(&self) {
        if let Some((looks, found)) = &*self.ways.lock().unwrap() {
            looks.send(()).unwrap();
            found.recv_timeout(PATIENCE).unwrap();
        }
    }
}

fn flow(call: u64) -> MediaChange {
    MediaChange::Open(Flow {
        id: FlowId(1),
        call: CallId(call),
        line: 0,
        component: Component::Rtp,
        side: MediaSide::Outside,
        way: Way::Pinhole,
        source: "192.0.2.1/32".parse().unwrap(),
        source_port: None,
        learn: Duration::ZERO,
        learned_anew: 0,
        to: "192.0.2.2:4000".parse().unwrap(),
        content: FlowContent::Media,
        clock: None,
        packets_per_second: 1,
        bytes_per_second: 1,
        expires: Duration::from_secs(1),
        held: false,
        timed: false,
        turns: false,
    })
}

async fn tcp(media: Option<Arc<dyn MediaSink>>) -> (Lab, TcpStream, ConnectionId) {
    let mut lab = lab_with(media, |config| {
        config.inside.listen = vec![(Transport::Tcp, "127.0.0.1:0".parse().unwrap())];
        config.inside.servers = vec![InsideServer::Prefix("127.0.0.0/8".parse().unwrap())];
    })
    .await;
    let client = TcpStream::connect(lab.address(Side::Inside, Transport::Tcp)).await.unwrap();
    let (id, _) = lab.opened().await;
    (lab, client, id)
}

fn send(connection: ConnectionId, text: &'static str) -> Output {
    Output::Send { connection, bytes: bytes::Bytes::from_static(text.as_bytes()) }
}

async fn read(client: &mut TcpStream, text: &str) {
    let mut buffer = vec![0; text.len()];
    timeout(PATIENCE, client.read_exact(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(buffer).unwrap(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_in_force_before_the_message_that_announces_them_leaves() {
    let recorder = Arc::new(Recorder::default());
    let (lab, client, id) = tcp(Some(Arc::clone(&recorder) as Arc<dyn MediaSink>)).await;
    let client = client.into_std().unwrap();
    *recorder.client.lock().unwrap() = Some(client.try_clone().unwrap());
    lab.shell.with_core(|_, _, out| {
        out.extend([Output::Media(vec![flow(7)]), send(id, "announced")]);
    });
    *recorder.client.lock().unwrap() = None;
    read(&mut TcpStream::from_std(client).unwrap(), "announced").await;
    assert_eq!(*recorder.changes.lock().unwrap(), [flow(7)]);
    let events = lab.events.lock().unwrap();
    let told = events.iter().find_map(|event| match event {
        Event::MediaFlows { call, tally, took } => Some((*call, tally.opened, *took)),
        _ => None,
    });
    let (call, opened, took) = told.expect("an event tells of it");
    assert_eq!((call, opened), (CallId(7), 1));
    assert!(took >= Duration::from_millis(50) && took < PATIENCE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_announces_flows_waits_for_their_way_and_nobody_else_does() {
    let recorder = Arc::new(Recorder::default());
    let (mut lab, client, id) = tcp(Some(Arc::clone(&recorder) as Arc<dyn MediaSink>)).await;
    let mut other = TcpStream::connect(lab.address(Side::Inside, Transport::Tcp)).await.unwrap();
    let (other_id, _) = lab.opened().await;
    let (looks, looked) = mpsc::channel();
    let (find, found) = mpsc::channel();
    *recorder.ways.lock().unwrap() = Some((looks, found));
    let client = client.into_std().unwrap();
    let shell = lab.shell.clone();
    let says = std::thread::spawn(move || {
        shell.with_core(|_, _, out| {
            out.extend([Output::Media(vec![flow(7)]), send(id, "announced")]);
        });
    });
    tokio::task::block_in_place(|| looked.recv_timeout(PATIENCE)).unwrap();
    // The kernel takes its time: whoever else speaks is heard.
    lab.shell.with_core(|_, _, out| out.push(send(other_id, "meanwhile")));
    read(&mut other, "meanwhile").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let early = client.peek(&mut [0]).map_err(|fault| fault.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock), "it was announced already");
    find.send(()).unwrap();
    read(&mut TcpStream::from_std(client).unwrap(), "announced").await;
    tokio::task::block_in_place(|| says.join()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_announces_flows_that_could_not_be_had_is_not_sent() {
    let recorder = Arc::new(Recorder::default());
    recorder.fails.store(true, Ordering::Relaxed);
    let (mut lab, mut client, id) = tcp(Some(Arc::clone(&recorder) as Arc<dyn MediaSink>)).await;
    lab.shell.with_core(|_, _, out| {
        let media = Output::Media(vec![flow(7)]);
        out.extend([send(id, "before "), media, send(id, "announced "), send(id, "after")]);
    });
    read(&mut client, "before after").await;
    assert!(matches!(lab.next().await, Seen::MediaFailed(CallId(7))));
    let closed = MediaChange::CloseCall(CallId(7));
    assert_eq!(*recorder.changes.lock().unwrap(), [flow(7), closed], "the core closed it");
    lab.counted("media-failed", 2).await;
    lab.counted("media-unsaid", 1).await;
    // A close that fails keeps nothing back.
    lab.shell.with_core(|_, _, out| {
        let media = Output::Media(vec![MediaChange::Close(FlowId(1))]);
        out.extend([media, send(id, ", said")]);
    });
    read(&mut client, ", said").await;
}

#[tokio::test]
async fn without_a_place_for_flows_none_is_announced() {
    let (mut lab, mut client, id) = tcp(None).await;
    lab.shell.with_core(|_, _, out| {
        out.extend([Output::Media(vec![flow(7)]), send(id, "announced "), send(id, "after")]);
    });
    read(&mut client, "after").await;
    assert!(matches!(lab.next().await, Seen::MediaFailed(CallId(7))));
}
