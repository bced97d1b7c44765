//! An end of a media stream: a UDP socket in a namespace that sends RTP and hears what comes.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::netns::Namespace;

/// Bytes of payload: 20 ms of G.711.
const PAYLOAD: usize = 160;

/// The end of a stream.
pub struct RtpEnd {
    socket: UdpSocket,
    ssrc: u32,
    sequence: u16,
}

impl RtpEnd {
    /// Listens at `at` in `namespace`.
    pub fn bind(namespace: &Namespace, at: SocketAddr, ssrc: u32) -> Result<Self> {
        let socket = namespace.udp(at)?;
        Ok(Self { socket, ssrc, sequence: 0 })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Sends one packet of RTP.
    pub fn send(&mut self, to: SocketAddr) -> Result<()> {
        let packet = packet(self.ssrc, self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        self.send_raw(to, &packet)
    }

    /// Passes this many sequence numbers over, as if their packets were lost on the way.
    pub fn lose(&mut self, packets: u16) {
        self.sequence = self.sequence.wrapping_add(packets);
    }

    /// Sends bytes as they are.
    pub fn send_raw(&self, to: SocketAddr, bytes: &[u8]) -> Result<()> {
        self.socket.send_to(bytes, to).with_context(|| to.to_string())?;
        Ok(())
    }

    /// The next packet and where it came from, if one comes within `limit`.
    pub fn receive(&self, limit: Duration) -> Result<Option<(SocketAddr, Vec<u8>)>> {
        self.socket.set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 2048];
        let (length, from) = loop {
            match self.socket.recv_from(&mut buffer) {
                Ok(received) => break received,
                // A wait with an end is not begun again by itself (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Some((from, buffer.get(..length).unwrap_or_default().to_vec())))
    }

    /// Takes away what came so far.
    pub fn drain(&self) -> Result<usize> {
        let mut count = 0;
        while self.receive(Duration::from_millis(1))?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

/// A packet of RTP (RFC 3550 section 5.1), PCMU.
pub fn packet(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * PAYLOAD as u32).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0x55; PAYLOAD]);
    packet
}

/// A sender report of RTCP without report blocks (RFC 3550 section 6.4.1).
pub fn sender_report(ssrc: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 200, 0, 6];
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0x11; 20]);
    packet
}

/// Sends these bytes to `to` until `receiver` has them: where they seem to come from.
pub fn crosses(
    sender: &RtpEnd,
    to: SocketAddr,
    receiver: &RtpEnd,
    bytes: &[u8],
    limit: Duration,
) -> Result<SocketAddr> {
    let deadline = Instant::now() + limit;
    receiver.drain()?;
    while Instant::now() < deadline {
        sender.send_raw(to, bytes)?;
        match receiver.receive(Duration::from_millis(20))? {
            Some((from, heard)) if heard == bytes => return Ok(from),
            _ => {}
        }
    }
    bail!("what was sent to {to} within {limit:?} did not come to {}", receiver.address()?)
}

/// Sends from `sender` to `to` until `receiver` hears it: where it seems to come from. The first
/// packets of a stream may go astray while the way is found.
pub fn reaches(
    sender: &mut RtpEnd,
    to: SocketAddr,
    receiver: &RtpEnd,
    limit: Duration,
) -> Result<SocketAddr> {
    let deadline = Instant::now() + limit;
    receiver.drain()?;
    while Instant::now() < deadline {
        sender.send(to)?;
        if let Some((from, bytes)) = receiver.receive(Duration::from_millis(20))? {
            let ssrc = bytes.get(8..12).unwrap_or_default();
            if ssrc == sender.ssrc.to_be_bytes() {
                return Ok(from);
            }
        }
    }
    bail!("nothing of what was sent to {to} within {limit:?} came to {}", receiver.address()?)
}

/// How many of `count` packets sent to `to` come to `receiver`. Each has `wait` to come after the
/// one before; what was on its way before is not counted.
pub fn heard(
    sender: &mut RtpEnd,
    to: SocketAddr,
    receiver: &RtpEnd,
    count: u16,
    wait: Duration,
) -> Result<u16> {
    let (ssrc, first) = (sender.ssrc.to_be_bytes(), sender.sequence);
    for _ in 0..count {
        sender.send(to)?;
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut heard = 0;
    while heard < count
        && let Some((_, bytes)) = receiver.receive(wait)?
    {
        let Some(&[high, low]) = bytes.get(2..4) else { continue };
        let number = u16::from_be_bytes([high, low]).wrapping_sub(first);
        heard += u16::from(bytes.get(8..12) == Some(&ssrc[..]) && number < count);
    }
    Ok(heard)
}
