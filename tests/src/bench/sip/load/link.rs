//! One connection of the generator: TLS or TCP, never blocking; bytes are gathered and written at
//! once.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::{Context as _, Result, bail};
use rustls::Connection;

/// Bytes that one read takes.
const READ: usize = 64 * 1024;

/// An open connection.
pub struct Link {
    socket: TcpStream,
    /// Our end of it.
    pub local: SocketAddr,
    tls: Option<Box<Connection>>,
    scratch: Vec<u8>,
    received: Vec<u8>,
    /// Plain bytes to be sent.
    pub out: Vec<u8>,
    /// What the socket did not take yet.
    wire: Vec<u8>,
}

impl Link {
    /// Over a connected socket; with TLS the handshake may still be to come.
    pub fn new(socket: TcpStream, tls: Option<Connection>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let tls = tls.map(|mut tls| {
            tls.set_buffer_limit(None);
            Box::new(tls)
        });
        let (scratch, local) = (vec![0; READ], socket.local_addr()?);
        Ok(Self {
            socket,
            local,
            tls,
            scratch,
            received: Vec::new(),
            out: Vec::new(),
            wire: Vec::new(),
        })
    }

    /// Whether the handshake goes on.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether there is something that the socket did not take.
    pub fn is_full(&self) -> bool {
        !self.wire.is_empty()
    }

    /// Reads what is there and hands over each whole message.
    pub fn read(
        &mut self,
        whole: fn(&[u8]) -> Option<usize>,
        mut take: impl FnMut(&[u8], &mut Vec<u8>),
    ) -> Result<()> {
        loop {
            let length = match self.socket.read(&mut self.scratch) {
                Ok(0) => bail!("the proxy closed the connection"),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("the connection broke"),
            };
            self.decrypt(length)?;
            if length < READ {
                break;
            }
        }
        let mut start = 0;
        while let Some(length) = whole(&self.received[start..]) {
            take(&self.received[start..start + length], &mut self.out);
            start += length;
        }
        self.received.drain(..start);
        Ok(())
    }

    fn decrypt(&mut self, length: usize) -> Result<()> {
        let mut bytes = &self.scratch[..length];
        let Some(tls) = &mut self.tls else {
            self.received.extend_from_slice(bytes);
            return Ok(());
        };
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes)?;
            let state = tls.process_new_packets().context("TLS")?;
            let plain = state.plaintext_bytes_to_read();
            let old = self.received.len();
            self.received.resize(old + plain, 0);
            tls.reader().read_exact(&mut self.received[old..])?;
        }
        Ok(())
    }

    /// Sends what was gathered.
    pub fn flush(&mut self) -> Result<()> {
        match &mut self.tls {
            None => self.wire.append(&mut self.out),
            Some(tls) => {
                if !self.out.is_empty() && !tls.is_handshaking() {
                    tls.writer().write_all(&self.out)?;
                    self.out.clear();
                }
                while tls.wants_write() {
                    tls.write_tls(&mut self.wire)?;
                }
            }
        }
        let mut sent = 0;
        while sent < self.wire.len() {
            match self.socket.write(&self.wire[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the connection broke"),
            }
        }
        self.wire.drain(..sent);
        Ok(())
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
