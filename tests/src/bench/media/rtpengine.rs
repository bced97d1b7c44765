//! rtpengine, Debian's, in user space, and the few words of its control protocol that a call
//! needs: a cookie and a dictionary in bencoding, over UDP.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::wire::{INSIDE, OUTSIDE, RECEIVER, RECEIVER_PORT, Row3, SENDER, SENDER_PORT};
use crate::lab::{
    dialogue::{audio, media_address},
    process::Process,
};

const CONTROL: &str = "127.0.0.1:22222";

/// The running relay.
pub struct RtpEngine {
    /// Its process.
    pub process: Process,
    control: UdpSocket,
}

impl RtpEngine {
    /// Starts it in the row's relay.
    pub fn start(row: &Row3, dir: &Path) -> Result<Self> {
        let mut command = row.relay.command("rtpengine");
        command.args([
            format!("--interface=out/{OUTSIDE}"),
            format!("--interface=in/{INSIDE}"),
            format!("--listen-ng={CONTROL}"),
            "--table=-1".to_owned(),
            "--foreground".to_owned(),
            "--log-stderr".to_owned(),
            "--log-level=3".to_owned(),
            "--port-min=50000".to_owned(),
            "--port-max=50999".to_owned(),
            "--num-threads=1".to_owned(),
            // It waits while others are measured.
            "--timeout=3600".to_owned(),
            "--silent-timeout=3600".to_owned(),
        ]);
        let process = Process::spawn("rtpengine", command, &dir.join("rtpengine.log"))?;
        let control = row.relay.run(|| UdpSocket::bind("127.0.0.1:0"))??;
        control.set_read_timeout(Some(Duration::from_millis(500)))?;
        let engine = Self { process, control };
        let deadline = Instant::now() + Duration::from_secs(20);
        while engine.ask(&[("command", "ping")]).is_err() {
            if Instant::now() > deadline {
                bail!("rtpengine does not answer: {}", engine.process.log_tail());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(engine)
    }

    /// Sets a call up: the port that the sender sends to.
    pub fn call(&self, id: &str) -> Result<u16> {
        let at = |address: Ipv4Addr, port| SocketAddr::new(address.into(), port);
        let offer = audio(at(SENDER, SENDER_PORT), "");
        let answer = audio(at(RECEIVER, RECEIVER_PORT), "");
        self.ask(&[
            ("command", "offer"),
            ("call-id", id),
            ("from-tag", "a"),
            ("sdp", &offer),
            ("ICE", "remove"),
            ("direction", "l3:out2:ine"),
        ])?;
        let answered = self.ask(&[
            ("command", "answer"),
            ("call-id", id),
            ("from-tag", "a"),
            ("to-tag", "b"),
            ("sdp", &answer),
        ])?;
        // The dictionary holds `sdp`, and SDP holds no line that begins like ours otherwise.
        let at = answered.find("v=0").context("rtpengine gives no SDP")?;
        Ok(media_address(answered.get(at..).unwrap_or_default())?.port())
    }

    fn ask(&self, words: &[(&str, &str)]) -> Result<String> {
        let sorted: BTreeMap<&str, &str> = words.iter().copied().collect();
        let mut text = "d".to_owned();
        for (key, value) in sorted {
            text += &format!("{}:{key}", key.len());
            match value.strip_prefix('l') {
                // A list is written as it is.
                Some(_) if key == "direction" => text += value,
                _ => text += &format!("{}:{value}", value.len()),
            }
        }
        let cookie = crate::lab::tls_client::unique();
        self.control.send_to(format!("{cookie} {text}e").as_bytes(), CONTROL)?;
        let mut buffer = [0; 65_536];
        let length = self.control.recv(&mut buffer)?;
        let answer = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        if !answer.starts_with(&cookie) || answer.contains("6:result5:error") {
            bail!("rtpengine says {answer:?}");
        }
        Ok(answer)
    }
}
