//! `bench NAME [--only PART] [--json]`: measures us beside our peers.

use std::process::ExitCode;

use clap::Parser;
use edge_tests::bench;

/// Allocations are counted where a benchmark asks for them.
#[global_allocator]
static ALLOCATOR: bench::sip::codec::Counting = bench::sip::codec::Counting;

/// Measures us beside our peers, turn by turn, in namespaces of its own.
#[derive(Parser)]
struct Arguments {
    /// Which one: xdp, sip, media, xmpp, upgrade or policy
    name: String,
    /// One JSON object on standard output and nothing else there
    #[arg(long)]
    json: bool,
    /// Only this part; one that does not exist is answered with those that do
    #[arg(long)]
    only: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let say = |text: &str| eprintln!("bench {}: {text}", arguments.name);
    let rows = match arguments.name.as_str() {
        "xdp" => bench::xdp::bench(&say, arguments.only.as_deref()),
        "upgrade" => bench::upgrade::bench(&say),
        "sip" => bench::sip::bench(&say, arguments.only.as_deref()),
        "policy" => bench::policy::bench(&say),
        "media" => bench::media::bench(&say, arguments.only.as_deref()),
        "xmpp" => bench::xmpp::bench(&say, arguments.only.as_deref()),
        other => {
            eprintln!(
                "no benchmark `{other}`: there are xdp, sip, media, xmpp, upgrade and policy"
            );
            return ExitCode::from(2);
        }
    };
    match rows {
        Ok(rows) if arguments.json => println!("{}", bench::as_json(&arguments.name, &rows)),
        Ok(rows) => print!("{}", bench::as_table(&rows)),
        Err(fault) => {
            eprintln!("bench {}: {fault:#}", arguments.name);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
