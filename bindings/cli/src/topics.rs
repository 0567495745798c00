//! `keepq topics create` and `configure`: the stored options of topics.

use std::path::Path;
use std::time::Duration;

use clap::Args as ClapArgs;
use keepq::{TopicConfig, WhenFull};
use serde_json::{Value, json};

use crate::args::{ListArgs, duration};
use crate::exit::{Failure, OK};
use crate::look::open;
use crate::output;

#[derive(Debug, ClapArgs)]
pub(crate) struct TopicArgs {
    pub(crate) topic: String,
    /// The most bytes of bodies that the topic keeps, as in 500, 64k, 2M, 1G ("none" = no limit)
    #[arg(long, value_name = "BYTES", value_parser = size)]
    max_bytes: Option<Asked<u64>>,
    /// The most messages that the topic keeps ("none" = no limit)
    #[arg(long, value_name = "N", value_parser = size)]
    max_messages: Option<Asked<u64>>,
    /// What a send does while a limit has no room for it
    #[arg(long, value_enum)]
    when_full: Option<WhenFullArg>,
    /// Keep settled messages this long after their sending ("none" = not at all)
    #[arg(long, value_name = "DURATION", value_parser = age)]
    retain_age: Option<Asked<Duration>>,
    /// Keep so many bytes of the last messages, settled or not ("none" = none)
    #[arg(long, value_name = "BYTES", value_parser = size)]
    retain_bytes: Option<Asked<u64>>,
    #[command(flatten)]
    list: ListArgs,
}

/// A value, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked<T>(Option<T>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WhenFullArg {
    /// It is refused
    Refuse,
    /// It waits for room, within its time-out
    Wait,
}

impl From<WhenFullArg> for WhenFull {
    fn from(arg: WhenFullArg) -> Self {
        match arg {
            WhenFullArg::Refuse => Self::Refuse,
            WhenFullArg::Wait => Self::Wait,
        }
    }
}

/// `none`, or a number with a unit of 1024, its square or its cube.
fn size(text: &str) -> Result<Asked<u64>, String> {
    if text == "none" {
        return Ok(Asked(None));
    }
    let digits = text.trim_end_matches(['k', 'M', 'G']);
    let unit = match &text[digits.len()..] {
        "" => 0,
        "k" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err("write one unit: k, M or G".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a number: write 500, 64k, 2M or none".to_owned())?;
    let bytes = number.checked_mul(1 << unit);
    Ok(Asked(Some(bytes.ok_or("this number is too large")?)))
}

fn age(text: &str) -> Result<Asked<Duration>, String> {
    if text == "none" {
        return Ok(Asked(None));
    }
    duration(text).map(|time| Asked(Some(time)))
}

/// Asks a builder for what was named.
macro_rules! ask {
    ($builder:ident, $args:ident) => {
        if let Some(asked) = $args.max_bytes {
            $builder = $builder.max_bytes(asked.0);
        }
        if let Some(asked) = $args.max_messages {
            $builder = $builder.max_messages(asked.0);
        }
        if let Some(asked) = $args.when_full {
            $builder = $builder.when_full(asked.into());
        }
        if let Some(asked) = $args.retain_age {
            $builder = $builder.retain_age(asked.0);
        }
        if let Some(asked) = $args.retain_bytes {
            $builder = $builder.retain_bytes(asked.0);
        }
    };
}

pub(crate) fn create(path: &Path, args: &TopicArgs) -> Result<i32, Failure> {
    let store = open(path)?;
    let mut options = store.topic_with(&args.topic);
    ask!(options, args);
    let config = options.open()?.config()?;
    store.close()?;
    output::print_object(args.list.output, &options_row(&config))?;
    Ok(OK)
}

pub(crate) fn configure(path: &Path, args: &TopicArgs) -> Result<i32, Failure> {
    let store = open(path)?;
    let mut change = store.existing_topic(&args.topic)?.configure();
    ask!(change, args);
    let config = change.apply()?;
    store.close()?;
    output::print_object(args.list.output, &options_row(&config))?;
    Ok(OK)
}

/// The options of a topic.
pub(crate) fn options_row(config: &TopicConfig) -> Value {
    json!({
        "max_bytes": config.max_bytes,
        "max_messages": config.max_messages,
        "when_full": match config.when_full {
            WhenFull::Wait => "wait",
            _ => "refuse",
        },
        "retain_age": config.retain_age.map(|age| age.as_secs_f64()),
        "retain_bytes": config.retain_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("500"), Ok(Asked(Some(500))));
        assert_eq!(size("64k"), Ok(Asked(Some(65_536))));
        assert_eq!(size("2M"), Ok(Asked(Some(2 << 20))));
        assert_eq!(size("1G"), Ok(Asked(Some(1 << 30))));
        assert_eq!(size("none"), Ok(Asked(None)));
        for bad in [
            "",
            "k",
            "1kk",
            "1.5M",
            "-1",
            "1K",
            "99999999999999999999",
            "99999999999999999G",
        ] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
        assert_eq!(age("none"), Ok(Asked(None)));
        assert_eq!(age("2m"), Ok(Asked(Some(Duration::from_secs(120)))));
    }
}
