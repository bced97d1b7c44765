//! Real user agents: sipp on the inside of an organisation, over TCP or UDP. Each run plays one
//! scenario to its end; its exit status is the proof.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    netns::Namespace,
    process::{Process, tail},
};
use crate::patience::BUSY;

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Play {
    /// One instant message.
    Message,
    /// INVITE, 180, 200, ACK, BYE, 200.
    Call,
    /// The same, but the callee sends the BYE.
    HangUp,
    /// INVITE, 180, CANCEL, 200, 487, ACK.
    Cancel,
    /// A call in which the caller speaks and hears itself.
    Media,
}

impl Play {
    const fn sender(self) -> &'static str {
        match self {
            Play::Message => include_str!("scenarios/message_uac.xml"),
            Play::Call => include_str!("scenarios/call_uac.xml"),
            Play::HangUp => include_str!("scenarios/hangup_uac.xml"),
            Play::Cancel => include_str!("scenarios/cancel_uac.xml"),
            Play::Media => include_str!("scenarios/media_uac.xml"),
        }
    }

    const fn receiver(self) -> &'static str {
        match self {
            Play::Message => include_str!("scenarios/message_uas.xml"),
            Play::Call => include_str!("scenarios/call_uas.xml"),
            Play::HangUp => include_str!("scenarios/hangup_uas.xml"),
            Play::Cancel => include_str!("scenarios/cancel_uas.xml"),
            Play::Media => include_str!("scenarios/media_uas.xml"),
        }
    }
}

/// How the user agent reaches its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// SIP over TCP.
    Tcp,
    /// SIP over UDP.
    Udp,
}

impl Carrier {
    const fn flag(self) -> &'static str {
        match self {
            Carrier::Tcp => "t1",
            Carrier::Udp => "u1",
        }
    }
}

/// One user agent's part.
#[derive(Clone, Debug)]
pub struct Agent<'a> {
    /// Where it lives.
    pub namespace: &'a Namespace,
    /// Its address.
    pub address: IpAddr,
    /// Its carrier.
    pub carrier: Carrier,
}

/// Who talks to whom, `alice@contoso.example` and `bob@fabrikam.example`, and how often.
#[derive(Clone, Debug)]
pub struct Dialogue {
    /// What.
    pub play: Play,
    /// Sender or caller.
    pub from: String,
    /// Receiver or callee.
    pub to: String,
    /// How many of them, one after another.
    pub count: u32,
    /// How long a call lasts.
    pub talk: Duration,
    /// How many begin in a second.
    pub rate: u32,
}

impl Dialogue {
    /// One of them.
    pub fn once(play: Play, from: &str, to: &str) -> Self {
        let (from, to) = (from.to_owned(), to.to_owned());
        Self { play, from, to, count: 1, talk: Duration::from_millis(50), rate: 50 }
    }
}

/// A sipp that waits for, or plays, its part.
pub struct Running {
    process: Process,
    dir: PathBuf,
    errors: PathBuf,
}

static NUMBER: AtomicU16 = AtomicU16::new(0);

/// The port on which inside servers take SIP.
pub const SERVER_PORT: u16 = 5060;

/// Starts the receiver and waits until its port is open.
pub fn receiver(agent: &Agent, dir: &Path, dialogue: &Dialogue) -> Result<Running> {
    receiver_on(agent, dir, dialogue, SERVER_PORT)
}

/// The same, on another port.
pub fn receiver_on(agent: &Agent, dir: &Path, dialogue: &Dialogue, port: u16) -> Result<Running> {
    let mut running = start(agent, dir, dialogue, dialogue.play.receiver(), port, None)?;
    let (namespace, address, carrier) = (agent.namespace, agent.address, agent.carrier);
    running.process.wait_ready(BUSY, || namespace.run(|| bound(carrier, address, port))?)?;
    Ok(running)
}

/// Starts the sender, which sends everything to `server`.
pub fn sender(
    agent: &Agent,
    dir: &Path,
    dialogue: &Dialogue,
    server: SocketAddr,
) -> Result<Running> {
    // A port of its own for each run, so that none waits for another's TIME_WAIT.
    let port = 20_000 + NUMBER.fetch_add(1, Ordering::Relaxed) % 20_000;
    start(agent, dir, dialogue, dialogue.play.sender(), port, Some(server))
}

impl Running {
    /// Waits for the end; an error holds what sipp saw.
    pub fn finish(mut self, limit: Duration) -> Result<()> {
        let outcome = self.process.wait(limit);
        match outcome {
            Ok(status) if status.success() => {
                let _ = std::fs::remove_dir_all(&self.dir);
                Ok(())
            }
            Ok(status) => bail!("sipp: {status}\n{}", self.evidence()),
            Err(_) => bail!("sipp did not end within {limit:?}\n{}", self.evidence()),
        }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    fn evidence(&self) -> String {
        let errors = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let messages = std::fs::read_to_string(self.dir.join("messages.log")).unwrap_or_default();
        format!("{}\n{}", tail(&errors, 12), tail(&messages, 40))
    }
}

/// Plays a dialogue between two agents: `from` sends by `server`, `to` waits.
pub fn play(
    from: &Agent,
    server: SocketAddr,
    to: &Agent,
    dir: &Path,
    dialogue: &Dialogue,
) -> Result<()> {
    let receiver = receiver(to, dir, dialogue)?;
    let sender = sender(from, dir, dialogue, server)?;
    let limit = BUSY + dialogue.talk * dialogue.count;
    let sent = sender.finish(limit).context("the sender failed");
    let received = receiver
        .finish(if sent.is_ok() { BUSY } else { Duration::from_millis(200) })
        .context("the receiver failed");
    match (sent, received) {
        (Ok(()), received) => received,
        (Err(sent), Ok(())) => Err(sent),
        (Err(sent), Err(received)) => Err(sent.context(format!("{received:#}"))),
    }
}

fn start(
    agent: &Agent,
    dir: &Path,
    dialogue: &Dialogue,
    scenario: &str,
    port: u16,
    server: Option<SocketAddr>,
) -> Result<Running> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = dir.join(format!("sipp-{number}"));
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("scenario.xml");
    std::fs::write(&file, fill_in(scenario, dialogue))?;
    let errors = dir.join("errors.log");
    let mut command = agent.namespace.command("sipp");
    command
        .current_dir(&dir)
        .env("TERM", "dumb")
        .args(["-sf"])
        .arg(&file)
        .args(["-t", agent.carrier.flag(), "-i", &agent.address.to_string()])
        .args(["-p", &port.to_string(), "-m", &dialogue.count.to_string(), "-nostdin"])
        .args([
            "-r",
            &dialogue.rate.to_string(),
            "-timeout",
            "120",
            "-timeout_error",
            "-trace_err",
            "-error_file",
        ])
        .arg(&errors)
        .args(["-trace_msg", "-message_file"])
        .arg(dir.join("messages.log"));
    if dialogue.play == Play::Media {
        // A second of G.711 that is not silence, again and again.
        std::fs::write(dir.join("tone.raw"), [0x9a; 8000])?;
        command.args(["-mi", &agent.address.to_string(), "-mp", "40000"]);
        if server.is_none() {
            command.arg("-rtp_echo");
        }
    }
    if let Some(server) = server {
        command.arg(server.to_string());
    }
    let process = Process::spawn("sipp (package sip-tester)", command, &dir.join("screen.log"))?;
    Ok(Running { process, dir, errors })
}

fn fill_in(scenario: &str, dialogue: &Dialogue) -> String {
    let user = |address: &str| address.split('@').next().unwrap_or_default().to_owned();
    scenario
        .replace("[from_user]", &user(&dialogue.from))
        .replace("[to_user]", &user(&dialogue.to))
        .replace("[from]", &dialogue.from)
        .replace("[to]", &dialogue.to)
        .replace("[talk]", &dialogue.talk.as_millis().to_string())
}

/// Whether a socket is bound to `port`, from the kernel's table (a probe would confuse sipp).
fn bound(carrier: Carrier, address: IpAddr, port: u16) -> Result<Option<()>> {
    let table = match (carrier, address.is_ipv4()) {
        (Carrier::Tcp, true) => "tcp",
        (Carrier::Tcp, false) => "tcp6",
        (Carrier::Udp, true) => "udp",
        (Carrier::Udp, false) => "udp6",
    };
    // The thread's own table: /proc/net is the process's.
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
    let wanted = format!(":{port:04X} ");
    let listening = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        let state = fields.nth(1).unwrap_or_default();
        format!("{local} ").ends_with(&wanted) && matches!(state, "0A" | "07")
    };
    Ok(text.lines().any(listening).then_some(()))
}
