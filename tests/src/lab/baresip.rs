//! baresip: a telephone that really speaks. It plays a tone and keeps what it hears.

use std::{
    f64::consts::TAU,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{netns::Namespace, process::Process, sipp::SERVER_PORT};
use crate::patience::BUSY;

/// Samples a second: G.711.
const RATE: u32 = 8000;
/// Where Debian keeps its modules.
const MODULES: &str = "/usr/lib/baresip/modules";

/// A telephone to start.
pub struct Telephone<'a> {
    /// Where it stands.
    pub namespace: &'a Namespace,
    /// Its address.
    pub address: IpAddr,
    /// `alice@contoso.example`.
    pub user: String,
    /// The server that it sends to.
    pub server: SocketAddr,
    /// The tone that it plays, Hz.
    pub tone: u32,
    /// Who may hear it.
    pub secret: Secret,
}

/// How what is said is kept from others, and how the other is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secret {
    /// Not at all: RTP, where SDP says.
    None,
    /// SRTP, whose keys stand in SDP (RFC 4568).
    Srtp,
    /// SRTP by DTLS (RFC 5764), where ICE finds the other (RFC 8445).
    DtlsAndIce,
}

impl Secret {
    /// What an account says of it, and the modules that it needs.
    const fn of(self) -> (&'static str, &'static str) {
        match self {
            Secret::None => ("", ""),
            Secret::Srtp => (";mediaenc=srtp-mand", "module srtp.so\n"),
            Secret::DtlsAndIce => {
                (";mediaenc=dtls_srtp;medianat=ice", "module dtls_srtp.so\nmodule ice.so\n")
            }
        }
    }
}

/// A running telephone.
pub struct Running {
    process: Process,
    dir: PathBuf,
}

impl Telephone<'_> {
    /// Starts it, to wait for a call (and take it), or to call `callee`; it ends by itself after
    /// `lives`.
    pub fn start(&self, dir: &Path, callee: Option<&str>, lives: Duration) -> Result<Running> {
        let name = self.user.replace('@', "-at-");
        let dir = dir.join(format!("baresip-{name}-{}", super::tls_client::unique()));
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("config"), self.config(&dir))?;
        std::fs::write(dir.join("contacts"), "")?;
        let (server, (secret, _)) = (self.server, self.secret.of());
        let account = format!(
            "<sip:{}>;regint=0;answermode=auto;audio_codecs=pcmu{secret};\
             outbound=\"sip:{server};transport=tcp\"\n",
            self.user
        );
        std::fs::write(dir.join("accounts"), account)?;
        std::fs::write(dir.join("tone.wav"), wave(self.tone, 60))?;
        let mut command = self.namespace.command("baresip");
        command.arg("-f").arg(&dir).args(["-t", &lives.as_secs().to_string()]);
        if let Some(callee) = callee {
            command.args(["-e", &format!("/dial sip:{callee}")]);
        }
        let process = Process::spawn("baresip", command, &dir.join("log"))?;
        Ok(Running { process, dir })
    }

    fn config(&self, dir: &Path) -> String {
        let listen = SocketAddr::new(self.address, SERVER_PORT);
        let (dir, (_, modules)) = (dir.display(), self.secret.of());
        format!(
            "sip_listen {listen}\naudio_player aubridge,sink\naudio_source aufile,{dir}/tone.wav\n\
             audio_alert aubridge,none\nausrc_srate {RATE}\nauplay_srate {RATE}\n\
             ausrc_channels 1\nauplay_channels 1\naudio_txmode thread\n\
             rtp_ports 40000-40999\nmodule_path {MODULES}\nmodule g711.so\nmodule aufile.so\n\
             module aubridge.so\nmodule sndfile.so\nmodule stdio.so\n{modules}\
             module_tmp account.so\n\
             module_app menu.so\nsnd_path {dir}\n"
        )
    }
}

impl Running {
    /// Waits until it takes calls.
    pub fn wait_ready(&mut self) -> Result<()> {
        let log = self.dir.join("log");
        self.process.wait_ready(BUSY, || {
            let text = std::fs::read(&log).unwrap_or_default();
            Ok(String::from_utf8_lossy(&text).contains("baresip is ready").then_some(()))
        })
    }

    /// Waits for its end and returns the samples that it heard.
    pub fn heard(mut self, limit: Duration) -> Result<Vec<i16>> {
        self.process.wait(limit)?;
        let file = std::fs::read_dir(&self.dir)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with("-dec.wav"));
        let Some(file) = file else { bail!("it heard nothing: {}", self.process.log_tail()) };
        let bytes = std::fs::read(&file)?;
        let samples = bytes.get(44..).context("no sound in the file")?;
        Ok(samples.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect())
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        self.process.log_tail()
    }
}

/// How much of the sound's power lies at this frequency, 0 to 1 (Goertzel's algorithm).
pub fn share_of_tone(samples: &[i16], tone: u32) -> f64 {
    let total: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    if samples.is_empty() || total == 0.0 {
        return 0.0;
    }
    // In windows: a lost packet shifts the phase, not the tone.
    let window = RATE as usize / 10;
    let power: f64 = samples.chunks_exact(window).map(|part| goertzel(part, tone)).sum();
    power / total
}

fn goertzel(samples: &[i16], tone: u32) -> f64 {
    let step = TAU * f64::from(tone) / f64::from(RATE);
    let (mut before, mut last) = (0.0, 0.0);
    for sample in samples {
        let next = f64::from(*sample) + 2.0 * step.cos() * last - before;
        (before, last) = (last, next);
    }
    let power = last.powi(2) + before.powi(2) - 2.0 * step.cos() * last * before;
    2.0 * power / samples.len() as f64
}

/// A sound file of one tone: 16 bits, one channel.
fn wave(tone: u32, seconds: u32) -> Vec<u8> {
    let samples = RATE * seconds;
    let bytes = samples * 2;
    let mut file = Vec::with_capacity(44 + bytes as usize);
    file.extend(b"RIFF");
    file.extend((36 + bytes).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    file.extend(1_u16.to_le_bytes());
    file.extend(1_u16.to_le_bytes());
    file.extend(RATE.to_le_bytes());
    file.extend((RATE * 2).to_le_bytes());
    file.extend(2_u16.to_le_bytes());
    file.extend(16_u16.to_le_bytes());
    file.extend(b"data");
    file.extend(bytes.to_le_bytes());
    for number in 0..samples {
        let value = 8000.0 * (TAU * f64::from(tone) * f64::from(number) / f64::from(RATE)).sin();
        file.extend((value as i16).to_le_bytes());
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_told_from_another_and_from_silence() {
        let file = wave(440, 1);
        let samples: Vec<i16> =
            file[44..].chunks_exact(2).map(|p| i16::from_le_bytes([p[0], p[1]])).collect();
        assert!(share_of_tone(&samples, 440) > 0.95, "{}", share_of_tone(&samples, 440));
        assert!(share_of_tone(&samples, 1000) < 0.05);
        assert_eq!(share_of_tone(&[0; 8000], 440), 0.0);
    }
}
