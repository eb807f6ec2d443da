//! Changes the file's text and keeps everything that is not ours, byte for byte.

use std::ops::Range;

use serde_json::value::RawValue;

use super::{
    DaemonOptions,
    object::{Object, parse},
};

/// The text with these options in it.
pub(super) fn merged(text: &str, object: &Object<'_>, options: &DaemonOptions) -> String {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut added = Vec::new();
    for (key, value) in options {
        match object.raw(key) {
            Some(_) if object.value(key).as_ref() == Some(value) => {}
            Some(raw) => edits.push((span(text, raw), value.to_string())),
            None => added.push(format!("\"{key}\": {value}")),
        }
    }
    if !added.is_empty() {
        let between = between(text);
        let (at, new) = match object.0.last() {
            Some((_, last)) => (span(text, last).end, format!(",{between}{}", added.join(&format!(",{between}")))),
            None => (text.find('{').map_or(0, |brace| brace + 1), format!("\n  {}\n", added.join(",\n  "))),
        };
        edits.push((at..at, new));
    }
    edits.sort_by_key(|(place, _)| place.start);
    let mut merged = text.to_owned();
    for (place, new) in edits.into_iter().rev() {
        merged.replace_range(place, &new);
    }
    merged
}

/// The text without these options.
pub(super) fn without(text: &str, object: &Object<'_>, options: &DaemonOptions) -> String {
    let start = text.find('{').map_or(0, |brace| brace + 1);
    let (mut kept, mut end) = (String::new(), start);
    for (key, raw) in &object.0 {
        // With the comma before it.
        let member = &text[end..span(text, raw).end];
        end = span(text, raw).end;
        if options.iter().any(|(gone, value)| gone == key && parse(raw).as_ref() == Some(value)) {
            continue;
        }
        kept += match member.trim_start().strip_prefix(',') {
            Some(first) if kept.is_empty() => first,
            Some(_) | None => member,
        };
    }
    let rest = if kept.is_empty() { text[end..].trim_start() } else { &text[end..] };
    format!("{}{kept}{rest}", &text[..start])
}

/// The position in the text of a value that was read from it.
fn span(text: &str, raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + raw.get().len()
}

/// The white space between a comma and the next member: the same as before the first one, or a blank if everything is
/// on one line.
fn between(text: &str) -> &str {
    let behind = text.trim_start().strip_prefix('{').unwrap_or_default();
    let blank = &behind[..behind.len() - behind.trim_start().len()];
    blank.rfind('\n').map_or(" ", |line| &blank[line..])
}
