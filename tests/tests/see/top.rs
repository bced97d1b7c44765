//! `edge top` on a terminal.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use edge_tests::{
    lab::{Lab, daemon, daemon::Edge, layout::Site},
    patience::BUSY,
};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use super::{edge, knock};

const COLUMNS: usize = 100;
const ROWS: usize = 30;

/// What stands on the screen: as much of a terminal as drawing needs (ECMA-48: moves of the
/// cursor, erasing the screen; colours and modes are left out).
struct Screen {
    cells: Vec<Vec<char>>,
    at: (usize, usize),
    rest: Vec<u8>,
}

impl Screen {
    fn new() -> Self {
        Self { cells: vec![vec![' '; COLUMNS]; ROWS], at: (0, 0), rest: Vec::new() }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        // What is cut off waits for its end.
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.to_owned(),
            Err(fault) => String::from_utf8_lossy(&self.rest[..fault.valid_up_to()]).into_owned(),
        };
        let mut used = 0;
        let mut text = whole.as_str();
        while let Some(first) = text.chars().next() {
            let length = if first == '\u{1b}' {
                let Some(length) = self.escape(text) else { break };
                length
            } else {
                self.print(first);
                first.len_utf8()
            };
            used += length;
            text = &text[length..];
        }
        self.rest.drain(..used);
    }

    fn print(&mut self, character: char) {
        let (row, column) = self.at;
        match character {
            '\r' => self.at = (row, 0),
            '\n' => self.at = (row + 1, column),
            _ => {
                if let Some(cell) = self.cells.get_mut(row).and_then(|line| line.get_mut(column)) {
                    *cell = character;
                }
                self.at = (row, column + 1);
            }
        }
    }

    /// The length of the sequence, which is done; `None`: it is not whole yet.
    fn escape(&mut self, text: &str) -> Option<usize> {
        let body = text.get(1..)?;
        let Some(body) = body.strip_prefix('[') else { return body.chars().next().map(|_| 2) };
        let end = body.find(|c: char| ('@'..='~').contains(&c))?;
        let numbers: Vec<usize> = body[..end].split(';').filter_map(|n| n.parse().ok()).collect();
        match body.as_bytes()[end] {
            b'H' => {
                let number = |at: usize| numbers.get(at).copied().unwrap_or(1).saturating_sub(1);
                self.at = (number(0), number(1));
            }
            b'J' => self.cells = vec![vec![' '; COLUMNS]; ROWS],
            _ => {}
        }
        Some(end + 3)
    }

    fn text(&self) -> String {
        self.cells.iter().map(|line| line.iter().collect::<String>() + "\n").collect()
    }
}

/// A terminal with a program on it.
struct Terminal {
    keys: File,
    terminal: File,
    screen: Arc<Mutex<Screen>>,
    /// Everything that was written to it.
    all: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    /// `setsid --ctty` makes it the program's own terminal, as a login does.
    fn run(program: &mut Command) -> (Self, Termios) {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let terminal = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let size =
            Winsize { ws_row: ROWS as u16, ws_col: COLUMNS as u16, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(terminal.as_fd(), size).unwrap();
        let before = tcgetattr(terminal.as_fd()).unwrap();
        let child = program
            .env("TERM", "xterm-256color")
            .stdin(Stdio::from(terminal.try_clone().unwrap()))
            .stdout(Stdio::from(terminal.try_clone().unwrap()))
            .stderr(Stdio::from(terminal.try_clone().unwrap()))
            .spawn()
            .unwrap();
        let keys = File::from(controller);
        let screen = Arc::new(Mutex::new(Screen::new()));
        let all = Arc::new(Mutex::new(Vec::new()));
        let (drawn, kept) = (screen.clone(), all.clone());
        let mut output = keys.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                kept.lock().unwrap().extend_from_slice(&bytes[..count]);
                drawn.lock().unwrap().feed(&bytes[..count]);
            }
        });
        (Self { keys, terminal, screen, all, child }, before)
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().text()
    }

    fn wait(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < BUSY, "it ends: {}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Packets a second in the row of a verdict.
fn rate(screen: &str, verdict: &str) -> Option<f64> {
    let line = screen.lines().find(|line| line.contains(&format!("│{verdict} ")))?;
    let mut words = line.split('│').nth(1)?.split_whitespace().skip(1);
    let number: f64 = words.next()?.parse().ok()?;
    let unit = words.next().unwrap_or_default();
    Some(number * if unit == "k" { 1000.0 } else { 1.0 })
}

/// How often the kernel has counted a run of the program on the edge's devices.
fn runs(edge: &Edge) -> u64 {
    let status = edge.status().unwrap();
    let id = status["firewall"]["attached"][0]["program_id"].as_u64().unwrap();
    let shown = Command::new("bpftool")
        .args(["-j", "prog", "show", "id", &id.to_string()])
        .output()
        .unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    shown["run_cnt"].as_u64().unwrap_or(0)
}

fn top(lab: &Lab, edge: &Edge) -> (Terminal, Termios) {
    let mut command = lab.site(Site::Contoso).command("setsid");
    command.args(["--ctty", "--wait"]).arg(daemon::binary().unwrap());
    Terminal::run(command.arg("top").arg("-c").arg(edge.file()))
}

#[test]
fn top_draws_on_a_terminal_and_leaves_it_and_the_kernel_as_they_were() {
    let lab = Lab::raise("seet").unwrap();
    let edge = edge(&lab);
    let (mut terminal, before) = top(&lab, &edge);
    let counted = runs(&edge);
    let began = Instant::now();
    let (mut quiet, mut busy) = (false, false);
    while !(quiet && busy) {
        let screen = terminal.text();
        let dropped = rate(&screen, "drop");
        quiet |= dropped == Some(0.0);
        // First nothing, then something: the numbers move.
        if quiet {
            knock(&lab);
        }
        busy |= quiet
            && dropped.is_some_and(|rate| rate > 0.0)
            && screen.contains("ns a packet")
            && screen.contains("no-rule")
            && screen.contains(&Site::Stranger.v6().to_string());
        assert!(began.elapsed() < BUSY, "quiet {quiet}, busy {busy}:\n{screen}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(runs(&edge) > counted, "the kernel measures while somebody watches");
    let during = tcgetattr(terminal.terminal.as_fd()).unwrap();
    assert_ne!(during.local_modes, before.local_modes, "keys are read one by one");
    terminal.keys.write_all(b"q").unwrap();
    assert_eq!(terminal.wait(), Some(0));
    sane(&terminal, &before);
    let began = Instant::now();
    // Others may measure on this machine for a moment too.
    loop {
        let counted = runs(&edge);
        knock(&lab);
        std::thread::sleep(Duration::from_millis(50));
        if runs(&edge) == counted {
            break;
        }
        assert!(began.elapsed() < BUSY, "the kernel measures no longer");
    }

    // A signal ends it as well as a key.
    let (mut terminal, before) = top(&lab, &edge);
    let began = Instant::now();
    while rate(&terminal.text(), "drop").is_none() {
        assert!(began.elapsed() < BUSY, "{}", terminal.text());
        std::thread::sleep(Duration::from_millis(20));
    }
    // `setsid` is the child; what it waits for is the program.
    let children = format!("/proc/{0}/task/{0}/children", terminal.child.id());
    let children = std::fs::read_to_string(children).unwrap_or_default();
    let process = children.trim().parse().unwrap_or(terminal.child.id() as i32);
    let process = rustix::process::Pid::from_raw(process).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert_eq!(terminal.wait(), Some(0));
    sane(&terminal, &before);
}

/// Line by line with echo as before, the cursor seen, and no longer on the second screen.
fn sane(terminal: &Terminal, before: &Termios) {
    let after = tcgetattr(terminal.terminal.as_fd()).unwrap();
    assert_eq!(
        (after.local_modes, after.input_modes, after.output_modes),
        (before.local_modes, before.input_modes, before.output_modes)
    );
    let began = Instant::now();
    loop {
        let all = String::from_utf8_lossy(&terminal.all.lock().unwrap()).into_owned();
        let last = |on: &str, off: &str| all.rfind(on) > all.rfind(off);
        if last("\u{1b}[?25h", "\u{1b}[?25l") && last("\u{1b}[?1049l", "\u{1b}[?1049h") {
            return;
        }
        assert!(began.elapsed() < BUSY, "{all:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
