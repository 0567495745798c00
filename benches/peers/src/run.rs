//! The command line, and the targets in turn within the time of a run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::dir::Dir;
use crate::peer::{Facts, Mode, Peer, all, left_out};
use crate::report::{Report, Row};
use crate::rounds::Entrant;
use crate::{Res, cannot, instructions, syncs, targets};

/// What is left after this is not begun.
const LIMIT: Duration = Duration::from_secs(20 * 60);

const HELP: &str = "\
peers --out DIR [--full] [--only T1,T4,syncs,instructions] [--peers keepq,yaque]
      [--counted PROGRAM] [--not-run NAME=REASON]...";

/// What a measurement needs to know.
pub(crate) struct Bench {
    /// Where stores are made: on the disk that is measured.
    pub(crate) stores: PathBuf,
    pub(crate) peers: Vec<&'static dyn Peer>,
    /// The program whose instructions are counted.
    counted: Option<PathBuf>,
    /// More rounds, and every depth that a peer can bear.
    pub(crate) full: bool,
    pub(crate) report: Report,
}

impl Bench {
    pub(crate) fn rounds(&self) -> usize {
        if self.full { 15 } else { 5 }
    }

    /// How long each entrant works in each round.
    pub(crate) fn slot(&self) -> Duration {
        Duration::from_millis(250)
    }

    /// A directory for one measurement.
    pub(crate) fn dir(&self, name: &str) -> Res<Dir> {
        Dir::new(&self.stores, name)
    }

    /// The peers that can do a work.
    pub(crate) fn able(&self, can: impl Fn(&Facts) -> bool) -> Vec<&'static dyn Peer> {
        let able = self.peers.iter().filter(|peer| can(&peer.facts()));
        able.copied().collect()
    }

    /// An entrant for each peer that can do a work; one that cannot be set up is out.
    pub(crate) fn entrants<'a>(
        &self,
        can: impl Fn(&Facts) -> bool,
        set_up: impl Fn(&'static dyn Peer) -> Res<Entrant<'a>>,
    ) -> Vec<Entrant<'a>> {
        let entrant = |peer: &'static dyn Peer| {
            set_up(peer).unwrap_or_else(|error| Entrant::broken(peer.name(), error))
        };
        self.able(can).into_iter().map(entrant).collect()
    }
}

struct Args {
    out: PathBuf,
    full: bool,
    counted: Option<PathBuf>,
    only: Vec<String>,
    peers: Vec<String>,
    not_run: Vec<String>,
}

fn parse(args: &[String]) -> Res<Args> {
    let mut parsed = Args {
        out: PathBuf::new(),
        full: false,
        counted: None,
        only: Vec::new(),
        peers: Vec::new(),
        not_run: Vec::new(),
    };
    let mut args = args.iter();
    let list = |value: &str| value.split(',').map(str::to_lowercase).collect();
    while let Some(arg) = args.next() {
        if arg == "--full" {
            parsed.full = true;
            continue;
        }
        let value = args.next().ok_or(HELP)?;
        match arg.as_str() {
            "--out" => parsed.out = std::path::absolute(value).map_err(cannot("find --out"))?,
            "--counted" => parsed.counted = Some(PathBuf::from(value)),
            "--only" => parsed.only = list(value),
            "--peers" => parsed.peers = list(value),
            "--not-run" => parsed.not_run.push(value.clone()),
            _ => return Err(HELP.into()),
        }
    }
    if parsed.out.as_os_str().is_empty() {
        return Err(HELP.into());
    }
    Ok(parsed)
}

pub(crate) fn run(args: &[String]) -> Res<()> {
    let args = parse(args)?;
    let stores = Dir::new(&args.out, "stores")?;
    let mut bench = Bench {
        stores: stores.path().to_path_buf(),
        peers: all(),
        counted: args.counted.clone(),
        full: args.full,
        report: Report::default(),
    };
    if !args.peers.is_empty() {
        // keepq is what the others are compared with.
        let wanted = |name: &str| name == "keepq" || args.peers.iter().any(|peer| peer == name);
        bench.peers.retain(|peer| wanted(peer.name()));
    }
    describe(&mut bench, &args);
    let header = machine(&args.out);
    println!("{header}");
    let started = Instant::now();
    for (name, target) in targets::ALL {
        if !args.only.is_empty() && !args.only.contains(&name.to_lowercase()) {
            continue;
        }
        if started.elapsed() > LIMIT {
            let reason = format!("{name}: the time of a run, 20 minutes, was over");
            bench.report.not_run.push(reason);
            continue;
        }
        println!("{name}");
        if let Err(error) = target(&mut bench) {
            println!("  NOT RUN: {error}");
            bench.report.not_run.push(format!("{name}: {error}"));
        }
        bench.report.write(&args.out, &header)?;
    }
    println!("took {} s", started.elapsed().as_secs());
    println!("{}", args.out.join("report.md").display());
    Ok(())
}

/// Enters who takes part and how it is set up.
fn describe(bench: &mut Bench, args: &Args) {
    let reason_of = |name: &str| {
        let reasons = args.not_run.iter().filter_map(|line| line.split_once('='));
        let mut reasons = reasons.filter(|(of, _)| *of == name);
        reasons
            .next()
            .map_or("it was not built", |(_, reason)| reason)
    };
    for name in left_out() {
        let reason = format!("{name}: {}", reason_of(name));
        println!("NOT RUN {reason}");
        bench.report.not_run.push(reason);
    }
    for peer in &bench.peers {
        let facts = peer.facts();
        let none = "none";
        let label = if facts.never_syncs {
            ", which never syncs by itself"
        } else {
            ""
        };
        let settings = format!(
            "{}: sync sends: {}; async sends: {}{label}; receive + ack: {}; depth at most {}",
            peer.name(),
            facts.sync.unwrap_or(none),
            facts.lazy.unwrap_or(none),
            facts.take.unwrap_or(none),
            crate::report::number(facts.depth as f64),
        );
        println!("{settings}");
        bench.report.settings.push(settings);
    }
}

/// What the figures were measured on.
fn machine(dir: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name"));
    let model = model.map_or("an unknown processor", |m| {
        m.trim_start_matches([' ', '\t', ':'])
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split_whitespace().take(2).collect();
    let free = rustix::fs::statvfs(dir).map_or(0, |s| s.f_bavail * s.f_frsize >> 30);
    format!(
        "{cores} cores of {model}, Linux {}, load {} before the run, {free} GiB free on the disk",
        kernel.trim(),
        load.join(" and "),
    )
}

/// How often everybody syncs.
pub(crate) fn syncs(bench: &mut Bench) -> Res<()> {
    const SENDS: u64 = 200;
    syncs::available()?;
    for mode in [Mode::Sync, Mode::Async] {
        let work = format!("syncs of {SENDS} {} sends", mode.name());
        let can = |facts: &Facts| match mode {
            Mode::Sync => facts.sync.is_some(),
            Mode::Async => facts.lazy.is_some(),
        };
        for peer in bench.able(can) {
            let dir = bench.dir("syncs")?;
            let counted = syncs::count(peer, mode, SENDS, dir.path());
            one_row(
                bench,
                "syncs",
                &work,
                peer.name(),
                "syncs",
                counted.map(|n| n as f64),
            );
        }
    }
    Ok(())
}

/// keepq's instructions per operation.
pub(crate) fn instructions(bench: &mut Bench) -> Res<()> {
    let program = bench.counted.clone();
    let program = program.ok_or("no --counted program: cargo xtask bench builds it")?;
    for (kind, what) in instructions::WORKS {
        let dir = bench.dir("instructions")?;
        let counted = instructions::count(&program, kind, dir.path());
        one_row(bench, "instr", what, "keepq", "instr", counted);
    }
    Ok(())
}

/// A row that is no race.
pub(crate) fn one_row(
    bench: &mut Bench,
    target: &'static str,
    work: &str,
    name: &str,
    unit: &'static str,
    figure: Res<f64>,
) {
    let (figure, note) = match figure {
        Ok(figure) => (Some(figure), String::new()),
        Err(error) => (None, format!("NOT RUN: {error}")),
    };
    bench.report.push(Row {
        target,
        work: work.to_string(),
        name: name.to_string(),
        unit,
        figure,
        keepq_is: None,
        note,
    });
}
