//! The command line's grammar.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::exit::Failure;
use crate::topics::TopicArgs;

/// A durable message queue in a directory: no server, any number of processes.
#[derive(Debug, Parser)]
#[command(name = "keepq", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) store: StorePlace,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the store is.
#[derive(Debug, ClapArgs)]
pub(crate) struct StorePlace {
    /// The store's directory; only `send` creates one
    #[arg(long, value_name = "DIR", env = "KEEPQ_STORE", global = true)]
    store: Option<PathBuf>,
}

impl StorePlace {
    /// The directory, or the sentence that says how to name one: there is no silent default.
    pub(crate) fn path(&self) -> Result<PathBuf, Failure> {
        match &self.store {
            Some(path) if !path.as_os_str().is_empty() => Ok(path.clone()),
            _ => Err(Failure::usage(
                "no store named: give --store DIR or set KEEPQ_STORE",
            )),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send one message, or with --lines one per line of standard input
    Send(SendArgs),
    /// Receive messages; each is acknowledged once its output is written
    Recv(RecvArgs),
    /// Show the last messages of a topic, and with -f those that come; claims nothing
    Tail(TailArgs),
    /// Show the earliest messages of a topic, or the next new ones of a group; claims nothing
    Peek(PeekArgs),
    /// Show one message by its id; claims nothing
    Get(GetArgs),
    /// Settle a delivery: done
    Ack(AckArgs),
    /// Settle a delivery: deliver it again
    Nack(NackArgs),
    /// Settle a delivery: to the dead letters
    Reject(RejectArgs),
    /// Move the end of a delivery's lease
    Extend(ExtendArgs),
    /// Dead letters of a group
    Dlq(DlqArgs),
    /// Counters of the store, its topics and groups
    Stats(StatsArgs),
    /// Topics of the store
    Topics(TopicsArgs),
    /// Consumer groups of the store
    Groups(GroupsArgs),
    /// Read and check every file; changes nothing
    Verify(ListArgs),
    /// Make a damaged store usable again; copies of damaged files go to quarantine/ first
    Repair(RepairArgs),
    /// Examine the place of a store: file system, locks, shared memory, limits
    Doctor(ListArgs),
    /// Measure against the limits of this machine, in one run
    Bench(BenchArgs),
    /// Kill senders and consumers at random moments and account for every message
    Demo(DemoArgs),
    /// Print a script that completes commands and options in a shell
    Completions(CompletionsArgs),
    #[command(hide = true, name = "demo-role")]
    DemoRole(DemoRoleArgs),
    #[command(hide = true, name = "bench-role")]
    BenchRole(BenchRoleArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FlushArg {
    /// On disk when the send returns
    Sync,
    /// In shared memory when the send returns: survives every process
    Async,
}

impl From<FlushArg> for keepq::Flush {
    fn from(flush: FlushArg) -> Self {
        match flush {
            FlushArg::Sync => Self::Sync,
            FlushArg::Async => Self::Async,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SendArgs {
    pub(crate) topic: String,
    /// The message's body; without it, standard input
    #[arg(conflicts_with = "lines")]
    pub(crate) body: Option<OsString>,
    /// One message per line of standard input: what stands before each newline
    #[arg(long)]
    pub(crate) lines: bool,
    /// Number the messages under this name: with --lines, running the same command again resumes
    /// and never sends a line twice
    #[arg(long, value_name = "NAME")]
    pub(crate) producer: Option<String>,
    #[arg(short, long)]
    pub(crate) key: Option<String>,
    #[arg(short, long)]
    pub(crate) tag: Option<String>,
    /// In ordered groups, messages with the same order key are delivered one after the other
    #[arg(long, value_name = "KEY")]
    pub(crate) order_key: Option<String>,
    /// A header, name=value; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// When a message counts as sent
    #[arg(long, value_enum, default_value_t = FlushArg::Sync)]
    pub(crate) flush: FlushArg,
    /// How results are printed (default: the id of a single message, nothing with --lines)
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<SendOutput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SendOutput {
    /// One object a message, one a line
    Jsonl,
    /// The same as jsonl
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecvOutput {
    /// One JSON object a line
    Jsonl,
    /// The body and a newline
    Raw,
    /// One JSON array
    Json,
    /// Columns for people; bodies are shortened
    Table,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RecvArgs {
    pub(crate) topic: String,
    /// The consumer group; it is made if the topic exists
    #[arg(short, long)]
    pub(crate) group: String,
    /// Receive as this consumer of the group: each gets every message for itself
    #[arg(long, value_name = "NAME")]
    pub(crate) consumer: Option<String>,
    /// Receive as a consumer of its own, without a name: it gets every message from the earliest
    /// kept on, and ends with this command
    #[arg(long, conflicts_with_all = ["consumer", "no_ack"])]
    pub(crate) broadcast: bool,
    /// The group gets messages with this tag only; may be repeated. Decided when it is made
    #[arg(short, long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// The group gets one message of each order key at a time. Decided when it is made
    #[arg(long)]
    pub(crate) ordered: bool,
    /// End after this many messages
    #[arg(short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) number: Option<u64>,
    /// End after this long without a message, as in 500ms, 30s, 2m (0 = take what is there)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Leave the messages leased: settle them with the receipts
    #[arg(long)]
    pub(crate) no_ack: bool,
    /// Run this shell command for each message, its body on standard input, the rest in KEEPQ_*
    /// variables; exit 0 acks, 75 retries, 65 rejects, anything else gives it back
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["no_ack", "output"])]
    pub(crate) exec: Option<String>,
    #[arg(short, long, value_enum, default_value_t = RecvOutput::Jsonl)]
    pub(crate) output: RecvOutput,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TailArgs {
    pub(crate) topic: String,
    /// Begin with the last N messages
    #[arg(short = 'n', value_name = "N", default_value_t = 10)]
    pub(crate) number: u64,
    /// Go on with those that come, until stopped
    #[arg(short, long)]
    pub(crate) follow: bool,
    #[arg(short, long, value_enum, default_value_t = RecvOutput::Jsonl)]
    pub(crate) output: RecvOutput,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PeekArgs {
    pub(crate) topic: String,
    /// Begin with the first message that this group has not looked at
    #[arg(short, long)]
    pub(crate) group: Option<String>,
    /// Begin with this sequence
    #[arg(long, value_name = "SEQ", conflicts_with = "group")]
    pub(crate) from: Option<u64>,
    /// Show messages with this key only, and damaged ones, whose key is not known
    #[arg(short, long)]
    pub(crate) key: Option<String>,
    /// Show at most N messages
    #[arg(short = 'n', value_name = "N", default_value_t = 10)]
    pub(crate) number: u64,
    #[arg(short, long, value_enum, default_value_t = RecvOutput::Jsonl)]
    pub(crate) output: RecvOutput,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GetArgs {
    /// The message's id: 16 hexadecimal digits
    pub(crate) id: String,
    #[arg(short, long, value_enum, default_value_t = RecvOutput::Jsonl)]
    pub(crate) output: RecvOutput,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    pub(crate) command: DlqCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List the dead letters, the earliest first
    Ls(DlqLs),
    /// Show one, by the message's id
    Show(DlqOne),
    /// Remove one for good, or without an id all that there are
    Purge(DlqOne),
}

impl DlqCommand {
    /// The topic and the group.
    pub(crate) fn group(&self) -> (&str, &str) {
        let place = match self {
            Self::Ls(args) => &args.place,
            Self::Show(args) | Self::Purge(args) => &args.place,
        };
        (&place.topic, &place.group)
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DlqPlace {
    pub(crate) topic: String,
    /// The consumer group that gave them up
    #[arg(short, long)]
    pub(crate) group: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DlqLs {
    #[command(flatten)]
    pub(crate) place: DlqPlace,
    /// List at most N
    #[arg(short = 'n', value_name = "N")]
    pub(crate) number: Option<u64>,
    /// Begin with this number among the dead letters
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub(crate) from: u64,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DlqOne {
    #[command(flatten)]
    pub(crate) place: DlqPlace,
    /// The message's id: 16 hexadecimal digits
    pub(crate) id: Option<String>,
    /// Its number among the dead letters (dead_seq), also where damage has taken the id
    #[arg(long, conflicts_with = "id")]
    pub(crate) seq: Option<u64>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CompletionsArgs {
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatsOutput {
    Table,
    Json,
    Jsonl,
    /// For Prometheus: the text exposition format
    Prom,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatsArgs {
    /// Default: table on a terminal, else jsonl
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<StatsOutput>,
    /// Print again after this long (default 2s), until stopped
    #[arg(long, value_name = "DURATION", value_parser = duration, num_args = 0..=1,
          default_missing_value = "2s")]
    pub(crate) watch: Option<Duration>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AckArgs {
    pub(crate) receipt: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NackArgs {
    pub(crate) receipt: String,
    /// Wait this long before the next delivery (default: the group's back-off; 0 = at once)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) delay: Option<Duration>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RejectArgs {
    pub(crate) receipt: String,
    /// Kept with the dead letter
    #[arg(default_value = "rejected")]
    pub(crate) reason: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExtendArgs {
    pub(crate) receipt: String,
    /// The lease ends this long from now
    #[arg(value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub(crate) lease: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListOutput {
    Table,
    Json,
    Jsonl,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ListArgs {
    /// Default: table on a terminal, else jsonl
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<ListOutput>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RepairArgs {
    /// Only show what would be done; nothing is changed
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TopicsArgs {
    #[command(subcommand)]
    pub(crate) command: TopicsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// List the topics
    Ls(ListArgs),
    /// Show one topic
    Info {
        topic: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Make a topic, with options that are kept; one that is there must have the same
    Create(TopicArgs),
    /// Change the options of a topic
    Configure(TopicArgs),
    /// Take all messages out of a topic, for every group; dead letters stay
    Purge {
        topic: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Delete a topic with its messages, its groups and their dead letters
    Rm { topic: String },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GroupsArgs {
    #[command(subcommand)]
    pub(crate) command: GroupsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupsCommand {
    /// List the groups, of one topic or of all
    Ls {
        topic: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show one group with its options
    Info {
        topic: String,
        group: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Delete a group with its dead letters
    Rm { topic: String, group: String },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    /// Make the stores in this directory (default: target/bench-<pid>); removed at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Messages waiting for the receive measurements
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) backlog: u64,
    /// Pairs of measurements, in turn; the median ratio counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) pairs: u32,
    /// Also 10 million messages waiting: memory, and rates against 10 thousand
    #[arg(long)]
    pub(crate) deep: bool,
    /// Also 10 million messages by three groups, one of which stalls: what the disk holds
    #[arg(long)]
    pub(crate) reclaim: bool,
    /// Only the measurements whose name contains this
    #[arg(long)]
    pub(crate) only: Option<String>,
    #[arg(short, long, value_enum, default_value_t = ListOutput::Table)]
    pub(crate) output: ListOutput,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchRoleArgs {
    pub(crate) role: BenchRole,
    pub(crate) place: PathBuf,
    #[arg(default_value_t = 0)]
    pub(crate) count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchRole {
    Ping,
    Hop,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DemoArgs {
    /// How long processes are killed, at least
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// The least number of kills
    #[arg(long, default_value_t = 100)]
    pub(crate) kills: u64,
    /// Chooses whom and when to kill; printed when something is wrong
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Lose one confirmed message on purpose: the demonstration must then fail
    #[arg(long)]
    pub(crate) sabotage: bool,
    /// Work in this directory, which must not exist (default: target/demo-<pid>)
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DemoRoleArgs {
    pub(crate) role: DemoRole,
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[arg(long)]
    pub(crate) ledger: PathBuf,
    #[arg(long, default_value_t = 0)]
    pub(crate) first: u64,
    #[arg(long, value_enum, default_value_t = FlushArg::Sync)]
    pub(crate) flush: FlushArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoRole {
    Sender,
    Consumer,
    Drain,
    /// Acknowledges one message and tells nobody
    Saboteur,
}

/// `250ms`, `30s`, `2m`, `1h`, `1.5s`, or a bare number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => {
            return Err(format!(
                "unknown unit {unit:?}: use ms, s, m, h or d, as in 30s"
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "not a duration: write 500ms, 30s, 2m".to_string())?;
    let duration = Duration::try_from_secs_f64(number * scale)
        .map_err(|_| "this duration is too long".to_string())?;
    if number > 0.0 && duration.is_zero() {
        return Err("this duration is too short".to_string());
    }
    Ok(duration)
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value.to_string())),
        _ => Err("a header is written name=value".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_grammar_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in [
            "",
            "s",
            "-1s",
            "1 s",
            "3 weeks",
            "1e400s",
            "nan",
            "1.2.3s",
            "99999999999999999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_header_needs_a_name() {
        assert_eq!(header("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(header("=b").is_err());
        assert!(header("ab").is_err());
    }
}
