//! Names of topics and groups. What starts with `%` belongs to keepq itself.

/// The longest name a user may give.
pub(crate) const MAX_USER_NAME: usize = 120;
/// The longest name a store may hold: an internal one made of two names of users.
pub(crate) const MAX_NAME: usize = 255;

const _: () = assert!("%RETRY%".len() + MAX_USER_NAME + 1 + MAX_USER_NAME <= MAX_NAME);
const _: () = assert!("%RETRY%%%".len() + crate::options::limits::BROADCAST_NAME <= MAX_NAME);

/// Checks a topic's, group's or producer's name as given by a user; the error says what to do.
pub(crate) fn check_user_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!(
            "a name may not be empty; give 1 to {MAX_USER_NAME} characters"
        ));
    }
    if name == "." || name == ".." {
        return Err(format!("'{name}' is not allowed as a name; choose another"));
    }
    if let Some(bad) = name.chars().find(|&c| !is_user_char(c)) {
        return Err(format!(
            "the character {bad:?} is not allowed in a name; use letters, digits, '.', '_' and '-'"
        ));
    }
    if name.len() > MAX_USER_NAME {
        return Err(format!(
            "a name of {} characters is too long; at most {MAX_USER_NAME} are allowed",
            name.len()
        ));
    }
    Ok(())
}

fn is_user_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Whether a name read from a store can be one that keepq wrote: a user's or an internal one.
pub(crate) fn is_storable(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(|c| is_user_char(c) || c == '%')
}

/// The group of one consumer that gets every message for itself.
pub(crate) fn broadcast_name(group: &str, consumer: &str) -> String {
    format!("{group}%{consumer}")
}

/// The topic that holds the dead letters of a group.
pub(crate) fn dlq_name(topic: &str, group: &str) -> String {
    format!("%DLQ%{topic}%{group}")
}

/// The private stream of a group, for dead letters that are delivered to it again.
pub(crate) fn retry_name(topic: &str, group: &str) -> String {
    format!("%RETRY%{topic}%{group}")
}

/// The topic that holds the half messages of a topic.
pub(crate) fn half_name(topic: &str) -> String {
    format!("%HALF%{topic}")
}

/// Whether the name is one of keepq's own.
pub(crate) fn is_internal(name: &str) -> bool {
    name.starts_with('%')
}
