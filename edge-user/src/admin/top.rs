//! `edge top`: what the firewall does in this second, on a terminal or once for machines.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyModifiers},
    layout::{Constraint, Layout},
    style::Style,
    widgets::{Block, Paragraph},
};
use serde_json::{Value, json};

use super::{
    cli::exit,
    client,
    commands::{CommandError, Report},
    protocol::{DropFilter, DropLine, RemoteRequest, Request},
    remote,
    table::Table,
};
use crate::{
    config::Paths,
    firewall::rates::{Rate, Rates, Watch},
};

/// Time between two samples.
const SECOND: Duration = Duration::from_secs(1);
/// How often it is looked whether a signal came.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(100);
/// Sources are counted over this time.
const SOURCE_WINDOW: Duration = Duration::from_secs(10);
/// Sources that are counted at most; those beyond are not looked at.
const MAX_SOURCES: usize = 4096;
/// Rows of the list of sources.
const TOP_SOURCES: usize = 10;

/// `edge top`.
#[derive(Debug, Args)]
pub struct TopArguments {
    /// Two samples a second apart, printed once
    #[arg(long)]
    pub(super) once: bool,
}

/// Sampled drops by source, as the daemon tells them.
#[derive(Clone, Default)]
struct Sources(Arc<Mutex<Seen>>);

/// How many remote users there are, as the daemon told it last.
#[derive(Clone, Default)]
struct Remote(Arc<Mutex<Value>>);

impl Remote {
    /// Asks in a thread of its own, once a second, for as long as the process lives.
    fn listen(paths: &Paths) -> Self {
        let remote = Self::default();
        let (run, told) = (paths.run.clone(), remote.clone());
        std::thread::spawn(move || {
            loop {
                let request = Request::Remote(RemoteRequest::Numbers);
                let numbers = client::ask(&run, &request).unwrap_or_default();
                *told.0.lock().unwrap_or_else(PoisonError::into_inner) = numbers;
                std::thread::sleep(SECOND);
            }
        });
        remote
    }

    fn numbers(&self) -> Value {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Default)]
struct Seen {
    drops: Vec<(Instant, IpAddr)>,
    /// The daemon does not tell them.
    silent: bool,
}

impl Sources {
    /// Listens in a thread of its own, for as long as the process lives. Without a daemon there
    /// are no sources.
    fn listen(paths: &Paths) -> Self {
        let sources = Self::default();
        let (run, seen) = (paths.run.clone(), sources.clone());
        std::thread::spawn(move || {
            let request = Request::Drops { follow: true, filter: DropFilter::default() };
            let _ = client::follow(&run, &request, |line: DropLine| {
                if let DropLine::Drop(dropped) = line
                    && let Some(source) = dropped.source
                {
                    seen.add(Instant::now(), source);
                }
                true
            });
            seen.seen().silent = true;
        });
        sources
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, now: Instant, source: IpAddr) {
        let drops = &mut self.seen().drops;
        drops.retain(|(at, _)| now.duration_since(*at) < SOURCE_WINDOW);
        if drops.len() < MAX_SOURCES {
            drops.push((now, source));
        }
    }

    /// Those seen most, with how often; `None`: the daemon does not tell.
    fn top(&self, now: Instant) -> Option<Vec<(IpAddr, usize)>> {
        let seen = self.seen();
        if seen.silent {
            return None;
        }
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let recent = |(at, _): &&(Instant, IpAddr)| now.duration_since(*at) < SOURCE_WINDOW;
        for (_, source) in seen.drops.iter().filter(recent) {
            *counts.entry(*source).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.truncate(TOP_SOURCES);
        Some(counts)
    }
}

/// `edge top --once`.
pub fn once(paths: &Paths) -> Result<Report, CommandError> {
    let (sources, users) = (Sources::listen(paths), Remote::listen(paths));
    let mut watch = Watch::start(&paths.pins, &paths.state);
    let before = watch.snapshot()?;
    std::thread::sleep(SECOND);
    let rates = watch.snapshot()?.since(&before);
    let sources = sources.top(Instant::now());
    let users = users.numbers();
    let mut text = format!("{}\n", summary(&rates));
    if let Some(users) = remote::summary(&users) {
        text.push_str(&format!("remote users: {users}\n"));
    }
    for (title, table) in tables(&rates, sources.as_deref()) {
        text.push_str(&format!("\n{title}\n{table}"));
    }
    let mut json = json!(rates);
    let rows = sources.iter().flatten();
    let rows = rows.map(|(source, drops)| json!({"source": source, "drops": drops}));
    json["sources"] = rows.collect();
    json["remote"] = users;
    Ok(Report::new(text, json))
}

/// `edge top` on a terminal, until `q`. Gives the exit code.
pub(super) fn live(paths: &Paths) -> u8 {
    match try_live(paths) {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("edge: {error}");
            error.code()
        }
    }
}

fn try_live(paths: &Paths) -> Result<(), CommandError> {
    let fault = |error: std::io::Error| {
        let what = "no terminal to draw on (use `edge top --once`)".to_owned();
        CommandError::File { what, error: error.to_string() }
    };
    let mut watch = Watch::start(&paths.pins, &paths.state);
    let mut before = watch.snapshot()?;
    let (sources, users) = (Sources::listen(paths), Remote::listen(paths));
    let asked_to_end = signals().map_err(fault)?;
    let mut terminal = ratatui::try_init().map_err(fault)?;
    let mut work = || -> Result<(), CommandError> {
        let mut rates = None;
        let mut next = Instant::now() + SECOND;
        loop {
            let top = sources.top(Instant::now());
            let users = remote::summary(&users.numbers());
            terminal
                .draw(|frame| draw(frame, rates.as_ref(), top.as_deref(), users.as_deref()))
                .map_err(fault)?;
            match wait(next, &asked_to_end).map_err(fault)? {
                Heard::End => return Ok(()),
                Heard::NewSize => {}
                Heard::Nothing => {
                    let now = watch.snapshot()?;
                    rates = Some(now.since(&before));
                    before = now;
                    next = Instant::now() + SECOND;
                }
            }
        }
    };
    let worked = work();
    ratatui::restore();
    worked
}

/// Set when a signal asks this process to end: the terminal is put back first.
fn signals() -> std::io::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let ended = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    let (mut terminate, mut hang_up) =
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    drop(inside);
    let set = ended.clone();
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = terminate.recv() => {}, _ = hang_up.recv() => {} }
        });
        set.store(true, Ordering::Relaxed);
    });
    Ok(ended)
}

/// What came while waiting.
enum Heard {
    Nothing,
    /// The terminal has another size.
    NewSize,
    /// `q`, Esc, Ctrl-C or a signal.
    End,
}

/// Waits until something comes, at most until then.
fn wait(until: Instant, asked_to_end: &AtomicBool) -> std::io::Result<Heard> {
    loop {
        if asked_to_end.load(Ordering::Relaxed) {
            return Ok(Heard::End);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Heard::Nothing);
        }
        if !event::poll(left.min(LOOK_FOR_SIGNALS))? {
            continue;
        }
        match event::read()? {
            Event::Key(key) => {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(Heard::End),
                    KeyCode::Char('c') if control => return Ok(Heard::End),
                    _ => {}
                }
            }
            Event::Resize(..) => return Ok(Heard::NewSize),
            _ => {}
        }
    }
}

/// `1.2 M` and the like.
fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.2} G", n / 1e9),
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e4 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

fn summary(rates: &Rates) -> String {
    let time = rates.nanoseconds_per_packet.map_or("-".to_owned(), |time| format!("{time:.0}"));
    let share = rates.cpu_share.map_or("-".to_owned(), |share| format!("{:.1}", share * 100.0));
    format!(
        "{time} ns a packet, {share} % of a CPU, {} blocks, {} flows",
        rates.blocks, rates.flows
    )
}

/// Titles and tables, in the order in which they are drawn.
fn tables(rates: &Rates, sources: Option<&[(IpAddr, usize)]>) -> Vec<(&'static str, String)> {
    let list = |rows: &[Rate], name: &'static str| {
        let mut table = Table::new(&[name, "packets/s", "bits/s"]);
        for row in rows {
            let numbers = [short(row.packets_per_second), short(row.bits_per_second)];
            table.row([row.name.clone()].into_iter().chain(numbers));
        }
        table.render()
    };
    let mut interfaces = Table::new(&["interface", "zone", "pass/s", "drop/s", "answer/s"]);
    for row in &rates.interfaces {
        let numbers = [row.passed, row.dropped, row.answered].map(short);
        interfaces.row([row.interface.clone(), row.zone.to_owned()].into_iter().chain(numbers));
    }
    let mut from = Table::new(&["source", "drops"]);
    for (source, count) in sources.into_iter().flatten() {
        from.row([source.to_string(), count.to_string()]);
    }
    vec![
        ("verdicts", list(&rates.verdicts, "verdict")),
        ("interfaces", interfaces.render()),
        ("reasons", list(&rates.reasons, "reason")),
        ("rules", list(&rates.rules, "rule")),
        match sources {
            Some(_) => ("sources of sampled drops in 10 s", from.render()),
            None => ("sources: only the daemon tells them, and it does not run", String::new()),
        },
    ]
}

fn draw(
    frame: &mut Frame<'_>,
    rates: Option<&Rates>,
    sources: Option<&[(IpAddr, usize)]>,
    users: Option<&str>,
) {
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(6),
        Constraint::Min(4),
        Constraint::Min(4),
        Constraint::Length(1),
    ]);
    let [head, first, second, third, foot] = rows.areas(frame.area());
    let Some(rates) = rates else {
        let text = "edge top   looking for a second\u{2026}";
        frame.render_widget(Paragraph::new(text).style(Style::new().bold()), head);
        return;
    };
    let title = format!("edge top   {}", summary(rates));
    frame.render_widget(Paragraph::new(title).style(Style::new().bold()), head);
    // Three columns of verdicts need less room than five of interfaces.
    let [verdicts, interfaces] =
        Layout::horizontal([Constraint::Length(30), Constraint::Fill(1)]).areas::<2>(first);
    let [reasons, rules] = Layout::horizontal([Constraint::Fill(1); 2]).areas::<2>(second);
    let areas = [verdicts, interfaces, reasons, rules, third];
    for (area, (title, text)) in areas.into_iter().zip(tables(rates, sources)) {
        frame.render_widget(Paragraph::new(text).block(Block::bordered().title(title)), area);
    }
    let text = match users {
        Some(users) => format!("q ends   remote users: {users}"),
        None => "q ends".to_owned(),
    };
    frame.render_widget(Paragraph::new(text).style(Style::new().dim()), foot);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::firewall::rates::InterfaceRate;

    fn rates() -> Rates {
        let rate = |name: &str, packets: f64| Rate {
            name: name.to_owned(),
            packets_per_second: packets,
            bits_per_second: packets * 512.0,
        };
        Rates {
            seconds: 1.0,
            verdicts: vec![rate("pass", 10.0), rate("drop", 2_000_000.0), rate("answer", 0.0)],
            reasons: vec![rate("blocked-address", 2_000_000.0)],
            rules: vec![rate("access", 10.0)],
            interfaces: vec![InterfaceRate {
                interface: "eth0".to_owned(),
                zone: "external",
                passed: 10.0,
                dropped: 2_000_000.0,
                answered: 0.0,
            }],
            nanoseconds_per_packet: Some(61.3),
            cpu_share: Some(0.125),
            blocks: 3,
            flows: 5,
        }
    }

    #[test]
    fn the_screen_shows_what_happens() {
        for (width, height) in [(100, 30), (80, 24), (20, 5), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let sources = [("198.51.100.7".parse().unwrap(), 4)];
            terminal
                .draw(|frame| draw(frame, Some(&rates()), Some(&sources), Some("2 connections")))
                .unwrap();
            let screen = terminal.backend().to_string();
            if width >= 80 {
                for word in [
                    "61 ns a packet, 12.5 % of a CPU, 3 blocks, 5 flows",
                    "blocked-address",
                    "2.00 M",
                    "1.02 G",
                    "eth0",
                    "access",
                    "198.51.100.7",
                    "ANSWER/S",
                    "remote users: 2 connections",
                ] {
                    assert!(
                        screen.contains(word),
                        "{word} is missing at {width}x{height}:\n{screen}"
                    );
                }
            }
        }
    }

    #[test]
    fn sources_are_those_of_the_last_seconds_the_busiest_first() {
        let sources = Sources::default();
        let start = Instant::now();
        let [a, b]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        sources.add(start, a);
        for _ in 0..2 {
            sources.add(start, b);
        }
        assert_eq!(sources.top(start), Some(vec![(b, 2), (a, 1)]));
        assert_eq!(sources.top(start + SOURCE_WINDOW), Some(Vec::new()));
        sources.seen().silent = true;
        assert_eq!(sources.top(start), None, "a daemon that is gone is no quiet one");
    }

    #[test]
    fn numbers_are_short() {
        let words = [0.4, 999.0, 12_345.0, 1.5e6, 2e9].map(short);
        assert_eq!(words, ["0", "999", "12.3 k", "1.50 M", "2.00 G"]);
    }
}
