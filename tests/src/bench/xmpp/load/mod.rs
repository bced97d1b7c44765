//! The load generator: a partner's server that sends, and whoever takes what comes out, on one
//! thread that never blocks, pinned to a core of its own. A stanza is due when it is due, whatever
//! the server does.

pub mod stream;
mod text;

use std::{
    net::TcpListener,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
};

pub use self::text::Ask;
use crate::bench::sip::{
    cpu,
    load::{
        link::Link,
        text::{answers, first_message},
    },
};

/// How long nothing may come while something is outstanding.
const PATIENCE: Duration = Duration::from_secs(20);
/// More are never outstanding: the server is lost then.
const MOST_OPEN: u32 = 20_000;

/// Who takes what comes out.
pub enum Sink {
    /// The partner itself: answers come on its own stream.
    Partner,
    /// A component, or a server inside.
    Xmpp(Link),
    /// A SIP server inside: what connects to it, and its Contact.
    Sip(TcpListener, Vec<Link>),
}

/// Both ends, connected.
pub struct Load {
    /// The partner's stream.
    pub partner: Link,
    /// Who takes what comes out.
    pub sink: Sink,
    /// What is sent.
    pub ask: Ask,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// From the first stanza's time to the last one's arrival.
    pub wall: Duration,
    /// CPU that the generator used.
    pub own: Duration,
}

impl Load {
    /// Waits for one stanza that went out before it could be counted.
    ///
    /// # Errors
    /// When it does not come out.
    pub fn first(&mut self) -> Result<()> {
        let began = Instant::now();
        while self.turn()? == 0 {
            ensure!(began.elapsed() < PATIENCE, "the first never came out");
            self.flush()?;
            self.wait(Instant::now() + Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Sends so many a second, until so many have come out.
    ///
    /// # Errors
    /// When one does not come out, or an error does where none is wanted.
    pub fn play(&mut self, rate: f64, count: u32) -> Result<Outcome> {
        let own = cpu::of_thread()?;
        let began = Instant::now();
        let (mut sent, mut came, mut last) = (0, 0, began);
        while came < count {
            let mut next = Instant::now() + Duration::from_millis(100);
            while sent < count {
                let due = began + Duration::from_secs_f64(f64::from(sent) / rate);
                if due > Instant::now() {
                    next = due;
                    break;
                }
                let outstanding = sent.saturating_sub(came);
                ensure!(outstanding < MOST_OPEN, "{outstanding} are outstanding");
                self.ask.write(&mut self.partner.out, sent);
                sent += 1;
            }
            self.flush()?;
            self.wait(next)?;
            let more = self.turn()?;
            came += more;
            ensure!(came <= sent, "{} came out that were not sent", came - sent);
            if more > 0 {
                last = Instant::now();
            }
            ensure!(last.elapsed() < PATIENCE, "{} of {sent} never came out", sent - came);
        }
        Ok(Outcome { wall: began.elapsed(), own: cpu::of_thread()?.saturating_sub(own) })
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        let others: &[Link] = match &self.sink {
            Sink::Partner => &[],
            Sink::Xmpp(link) => std::slice::from_ref(link),
            Sink::Sip(_, links) => links,
        };
        std::iter::once(&self.partner).chain(others)
    }

    fn flush(&mut self) -> Result<()> {
        let others: &mut [Link] = match &mut self.sink {
            Sink::Partner => &mut [],
            Sink::Xmpp(link) => std::slice::from_mut(link),
            Sink::Sip(_, links) => links,
        };
        for link in std::iter::once(&mut self.partner).chain(others) {
            if !link.out.is_empty() || link.is_full() {
                link.flush()?;
            }
        }
        Ok(())
    }

    /// Waits for something to read, at most until then.
    fn wait(&self, until: Instant) -> Result<()> {
        let timeout = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
        let mut fds: Vec<PollFd> = self
            .links()
            .map(|link| {
                let mut interest = PollFlags::IN;
                interest.set(PollFlags::OUT, link.is_full());
                PollFd::from_borrowed_fd(link.as_fd(), interest)
            })
            .collect();
        if let Sink::Sip(listener, _) = &self.sink {
            fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
        }
        retry_on_intr(|| poll(&mut fds, Some(&timeout)))?;
        Ok(())
    }

    /// Reads everything there is; how many have come out.
    fn turn(&mut self) -> Result<u32> {
        let (ask, mut came, mut fault) = (self.ask, 0, None);
        let answered = matches!(self.sink, Sink::Partner);
        self.partner.read(text::first_stanza, |stanza, out| {
            if text::is_management(stanza) {
                text::acknowledge(stanza, out);
            } else if answered && ask.is_answer(stanza) {
                came += 1;
            } else if !stanza.trim_ascii().is_empty() {
                fault.get_or_insert_with(|| String::from_utf8_lossy(stanza).into_owned());
            }
        })?;
        if let Some(fault) = fault {
            bail!("the partner was sent {fault}");
        }
        match &mut self.sink {
            Sink::Partner => {}
            Sink::Xmpp(link) => link.read(text::first_stanza, |stanza, out| {
                if text::is_management(stanza) {
                    text::acknowledge(stanza, out);
                } else {
                    came += u32::from(stanza.starts_with(b"<message"));
                }
            })?,
            Sink::Sip(listener, links) => {
                while let Ok((socket, _)) = listener.accept() {
                    links.push(Link::new(socket, None)?);
                }
                for link in links {
                    link.read(first_message, |message, out| {
                        came += u32::from(message.starts_with(b"MESSAGE "));
                        if !message.starts_with(b"SIP/2.0") {
                            answers(out, message, "", |_| {});
                        }
                    })?;
                }
            }
        }
        Ok(came)
    }
}
