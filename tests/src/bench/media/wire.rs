//! Three namespaces in a row: a sender outside, the relay, a receiver inside. The relay's outer
//! device does its receiving in a kernel thread of its own, so that all work for a packet can be
//! counted, whoever relays.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bench::raw,
    lab::{links, netns::Namespace},
    packets,
    wire::ifindex,
};

/// The sender's address.
pub const SENDER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The port that the sender sends from.
pub const SENDER_PORT: u16 = 30_000;
/// The relay's address outside.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The relay's address inside.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The receiver's address.
pub const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The receiver's port.
pub const RECEIVER_PORT: u16 = 31_000;
/// The relay's device inside.
pub const INSIDE_DEVICE: &str = "int0";

const RELAY_MAC: &str = "02:00:00:00:09:01";
const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
const RELAY_MAC_BYTES: [u8; 6] = [2, 0, 0, 0, 9, 1];

/// So many packets, and how many of them in a second.
#[derive(Clone, Copy)]
pub struct Load {
    /// A second, in bursts of [`BATCH`]: at least 4,000.
    pub rate: u32,
    /// In all.
    pub packets: u32,
}

/// Packets that are sent together: rtpengine gives a socket up where 50 wait, again and again.
pub const BATCH: u32 = 8;

/// Bytes of an RTP packet: 20 ms of G.711 and its header.
pub const RTP_BYTES: usize = 172;

/// The row of namespaces.
pub struct Row3 {
    /// Sender.
    pub sender: Namespace,
    /// Relay.
    pub relay: Namespace,
    /// Receiver.
    pub receiver: Namespace,
    /// The relay's device outside: the name is this row's alone, so that its thread is found.
    pub device: String,
    /// The receiver's device.
    pub last: String,
    _programs: Vec<OwnedFd>,
}

impl Row3 {
    /// Makes it. What comes to the receiver is dropped there and counted.
    pub fn new(tag: &str) -> Result<Self> {
        let name = format!("edge-{tag}-{}", std::process::id());
        // A name of a device has 15 characters, that of its thread no more.
        let device = format!("{tag}{}", std::process::id() % 100_000);
        let sender = Namespace::create(&format!("{name}-sender"))?;
        let relay = Namespace::create(&format!("{name}-relay"))?;
        let receiver = Namespace::create(&format!("{name}-receiver"))?;
        let last = format!("rx{device}");
        let mut row = Self { sender, relay, receiver, device, last, _programs: Vec::new() };
        row.link()?;
        Ok(row)
    }

    fn link(&mut self) -> Result<()> {
        let (device, last) = (&self.device, &self.last);
        self.relay.ip_batch(&format!(
            "link add {device} address {RELAY_MAC} type veth \
                 peer name out0 address 02:00:00:00:09:02 netns {}\n\
             link add {INSIDE_DEVICE} type veth peer name {last} address 02:00:00:00:09:04 netns {}\n\
             addr add {OUTSIDE}/24 dev {device}\naddr add {INSIDE}/24 dev {INSIDE_DEVICE}\n\
             link set {device} up\nlink set {INSIDE_DEVICE} up\n",
            self.sender.name(),
            self.receiver.name(),
        ))?;
        self.sender.ip_batch(&format!("addr add {SENDER}/24 dev out0\nlink set out0 up\n"))?;
        self.receiver
            .ip_batch(&format!("addr add {RECEIVER}/24 dev {last}\nlink set {last} up\n"))?;
        self.relay.ip_batch(&format!(
            "neigh replace {RECEIVER} lladdr 02:00:00:00:09:04 dev {INSIDE_DEVICE} nud permanent\n\
             neigh replace {SENDER} lladdr 02:00:00:00:09:02 dev {device} nud permanent\n"
        ))?;
        let link = links::far_end(&self.sender, "out0")?;
        let drop = raw::load(raw::Tiny::Drop)?;
        let drain = self.receiver.run(|| {
            raw::attach(&drop, ifindex(last).context("its device")?)
                .context("the receiver's program")
        })??;
        self._programs.extend([link, drop, drain]);
        // Without a program of its own the device takes packets in by a thread only with this.
        quiet(self.relay.command("ethtool").args(["-K", device, "gro", "on"]))?;
        in_a_thread(&self.relay, device)?;
        // What is done at the receiver is nobody's work here.
        in_a_thread(&self.receiver, last)
    }

    /// Sends RTP packets to these ports of the relay (the first, and how many: every second one),
    /// by the clock. How many there were in a second.
    pub fn send(&self, (port, ports): (u16, u16), load: Load) -> Result<f64> {
        let frame = frame(port);
        let clock = raw::Clock::create()?;
        let interval = 1_000_000_000 / load.rate;
        let pace = raw::Pace { clock: clock.as_raw_fd(), interval, port, ports };
        let generator = raw::load(raw::Tiny::Pace(pace))?;
        let before = raw::Before { frame: frame.get(..48).unwrap_or(&frame), entry: None };
        let (restoring, _programs) = raw::restoring(generator.as_fd(), before)?;
        self.sender.run(|| {
            let index = ifindex("out0").context("out0")?;
            raw::send_in_batches(restoring.as_fd(), &frame, index, load.packets, BATCH)?;
            anyhow::Ok(())
        })??;
        let clock = raw::Clock::read(clock.as_fd())?;
        let took = Duration::from_nanos(clock.last.saturating_sub(clock.first));
        Ok(f64::from(load.packets.saturating_sub(1)) / took.as_secs_f64())
    }

    /// Packets that came to the receiver so far.
    pub fn received(&self) -> Result<u64> {
        let output = self.receiver.command("ethtool").args(["-S", &self.last]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let packets = text.lines().filter_map(|line| {
            let (name, value) = line.trim().split_once(": ")?;
            let counts = name.starts_with("rx_queue_") && name.ends_with("_xdp_packets");
            counts.then(|| value.parse::<u64>().ok())?
        });
        Ok(packets.sum())
    }
}

/// Has a device take packets in by a kernel thread of its own.
fn in_a_thread(namespace: &Namespace, device: &str) -> Result<()> {
    // Only `ip netns exec` shows the namespace's own devices there.
    quiet(std::process::Command::new("ip").args([
        "netns",
        "exec",
        namespace.name(),
        "sh",
        "-c",
        &format!("echo 1 > /sys/class/net/{device}/threaded"),
    ]))
}

impl Drop for Row3 {
    fn drop(&mut self) {
        for namespace in [&self.sender, &self.relay, &self.receiver] {
            Namespace::delete(namespace.name());
        }
    }
}

fn frame(port: u16) -> Vec<u8> {
    let mut rtp = crate::lab::rtp::packet(0x1234_5678, 1);
    rtp.resize(RTP_BYTES, 0x55);
    let udp = packets::udp(SENDER_PORT, port, &rtp);
    let ip = packets::ip(SENDER.into(), OUTSIDE.into(), 17, &udp);
    let mut frame = Vec::with_capacity(14 + ip.len());
    frame.extend(RELAY_MAC_BYTES);
    frame.extend(SENDER_MAC);
    frame.extend(0x0800_u16.to_be_bytes());
    frame.extend(ip);
    let mut frame = packets::summed(frame);
    // No checksum: the port changes.
    if let Some(sum) = frame.get_mut(40..42) {
        sum.fill(0);
    }
    frame
}

/// Runs a command to its end; its words are the error.
pub fn quiet(command: &mut std::process::Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().context("it does not start")?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    ensure!(output.status.success());
    Ok(())
}
