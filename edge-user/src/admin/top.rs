//! `edge top`: what the firewall does in this second, on a terminal or once for machines.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use clap::Args;
use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::Style,
    widgets::{Block, Paragraph},
};
use serde_json::json;

use super::{
    cli::exit,
    client,
    commands::{CommandError, Report},
    protocol::{DropFilter, DropLine, Request},
    table::Table,
};
use crate::{
    config::Paths,
    firewall::rates::{Rate, Rates, Watch},
};

/// Time between two samples.
const SECOND: Duration = Duration::from_secs(1);
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
struct Sources(Arc<Mutex<Vec<(Instant, IpAddr)>>>);

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
        });
        sources
    }

    fn add(&self, now: Instant, source: IpAddr) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|(at, _)| now.duration_since(*at) < SOURCE_WINDOW);
        if seen.len() < MAX_SOURCES {
            seen.push((now, source));
        }
    }

    /// Those seen most, with how often.
    fn top(&self, now: Instant) -> Vec<(IpAddr, usize)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (_, source) in seen.iter().filter(|(at, _)| now.duration_since(*at) < SOURCE_WINDOW) {
            *counts.entry(*source).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.truncate(TOP_SOURCES);
        counts
    }
}

/// `edge top --once`.
pub fn once(paths: &Paths) -> Result<Report, CommandError> {
    let sources = Sources::listen(paths);
    let mut watch = Watch::start(&paths.pins, &paths.state);
    let before = watch.snapshot()?;
    std::thread::sleep(SECOND);
    let rates = watch.snapshot()?.since(&before);
    let sources = sources.top(Instant::now());
    let mut text = format!("{}\n", summary(&rates));
    for (title, table) in tables(&rates, &sources) {
        text.push_str(&format!("\n{title}\n{table}"));
    }
    let mut json = json!(rates);
    let rows = sources.iter().map(|(source, drops)| json!({"source": source, "drops": drops}));
    json["sources"] = rows.collect();
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
        CommandError::Arguments(format!("no terminal to draw on ({error}): use `edge top --once`"))
    };
    let mut watch = Watch::start(&paths.pins, &paths.state);
    let mut before = watch.snapshot()?;
    let sources = Sources::listen(paths);
    let mut terminal = ratatui::try_init().map_err(fault)?;
    let mut work = || -> Result<(), CommandError> {
        let mut rates = before.since(&before);
        loop {
            let top = sources.top(Instant::now());
            terminal.draw(|frame| draw(frame, &rates, &top)).map_err(fault)?;
            if ended(SECOND).map_err(fault)? {
                return Ok(());
            }
            let now = watch.snapshot()?;
            rates = now.since(&before);
            before = now;
        }
    };
    let worked = work();
    ratatui::restore();
    worked
}

/// Waits so long, or until `q`, Esc or Ctrl-C.
fn ended(wait: Duration) -> std::io::Result<bool> {
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if !event::poll(left)? {
            return Ok(false);
        }
        if let Event::Key(key) = event::read()? {
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(true),
                KeyCode::Char('c') if control => return Ok(true),
                _ => {}
            }
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
fn tables(rates: &Rates, sources: &[(IpAddr, usize)]) -> Vec<(&'static str, String)> {
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
    for (source, count) in sources {
        from.row([source.to_string(), count.to_string()]);
    }
    vec![
        ("verdicts", list(&rates.verdicts, "verdict")),
        ("interfaces", interfaces.render()),
        ("reasons", list(&rates.reasons, "reason")),
        ("rules", list(&rates.rules, "rule")),
        ("sources of sampled drops", from.render()),
    ]
}

fn draw(frame: &mut Frame<'_>, rates: &Rates, sources: &[(IpAddr, usize)]) {
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(6),
        Constraint::Min(4),
        Constraint::Min(4),
        Constraint::Length(1),
    ]);
    let [head, first, second, third, foot] = rows.areas(frame.area());
    let halves =
        |area: Rect| -> [Rect; 2] { Layout::horizontal([Constraint::Fill(1); 2]).areas(area) };
    let title = format!("edge top   {}", summary(rates));
    frame.render_widget(Paragraph::new(title).style(Style::new().bold()), head);
    let [verdicts, interfaces] = halves(first);
    let [reasons, rules] = halves(second);
    let areas = [verdicts, interfaces, reasons, rules, third];
    for (area, (title, text)) in areas.into_iter().zip(tables(rates, sources)) {
        frame.render_widget(Paragraph::new(text).block(Block::bordered().title(title)), area);
    }
    frame.render_widget(Paragraph::new("q ends").style(Style::new().dim()), foot);
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
            terminal.draw(|frame| draw(frame, &rates(), &sources)).unwrap();
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
        assert_eq!(sources.top(start), [(b, 2), (a, 1)]);
        assert_eq!(sources.top(start + SOURCE_WINDOW), []);
    }

    #[test]
    fn numbers_are_short() {
        let words = [0.4, 999.0, 12_345.0, 1.5e6, 2e9].map(short);
        assert_eq!(words, ["0", "999", "12.3 k", "1.50 M", "2.00 G"]);
    }
}
