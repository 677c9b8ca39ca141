//! Headers that registries answer with, read from whatever they may hold.

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{HeaderName, LINK, RETRY_AFTER, WWW_AUTHENTICATE};

/// The most challenges that are looked at.
const MOST_CHALLENGES: usize = 16;

/// One challenge of a `WWW-Authenticate` header. RFC 9110, 11.6.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// `basic`, `bearer`, in lower case.
    pub(super) scheme: String,
    /// Names in lower case, with their values.
    pub(super) parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.parameters.iter();
        let found = all.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// All challenges of an answer.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut all: Vec<Challenge> = texts.flat_map(parse_challenges).collect();
    all.truncate(MOST_CHALLENGES);
    all
}

/// The challenges of one header.
fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut all: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|letter: char| !is_token(letter));
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        if word.is_empty() {
            return all;
        }
        let after = after.trim_start_matches([' ', '\t']);
        let Some(value) = after.strip_prefix('=') else {
            all.push(Challenge {
                scheme: word.to_ascii_lowercase(),
                parameters: Vec::new(),
            });
            rest = after;
            continue;
        };
        let (value, after) = parse_value(value.trim_start_matches([' ', '\t']));
        if let Some(challenge) = all.last_mut() {
            let parameter = (word.to_ascii_lowercase(), value);
            challenge.parameters.push(parameter);
        }
        rest = after;
    }
}

/// A token or a quoted string, and what comes after.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, quoted.get(at + 1..).unwrap_or("")),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            _ => value.push(letter),
        }
    }
    (value, "")
}

fn is_token(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter)
}

/// Where a list goes on: the `Link` with `rel="next"`. RFC 8288.
pub(super) fn next_page(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(LINK).into_iter();
    let mut texts = values.filter_map(|value| value.to_str().ok());
    texts.find_map(parse_next)
}

fn parse_next(text: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let end = after.find('<').unwrap_or(after.len());
        let (parameters, next) = after.split_at(end);
        let relation = parameters.split([';', ',']).find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel").then_some(value)
        });
        if relation.is_some_and(|all| all.split(' ').any(|one| one.eq_ignore_ascii_case("next"))) {
            return Some(target.to_owned());
        }
        rest = next;
    }
}

/// `bytes 0-9/10`: the first and the last byte and the whole length. RFC 9110, 14.4.
pub(super) fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = match total {
        "*" => None,
        total => Some(number(total)?),
    };
    let right = first <= last && total.is_none_or(|total| last < total);
    right.then_some((first, last, total))
}

/// How much of an upload has arrived, from `Range: 0-9`. Absent where that cannot be told: registries
/// say `0-0` of nothing as well as of one byte.
pub(super) fn uploaded(text: &str) -> Option<u64> {
    let text = text.trim();
    let (first, last) = text
        .strip_prefix("bytes=")
        .unwrap_or(text)
        .split_once('-')?;
    match (number(first)?, number(last)?) {
        (0, last @ 1..) => last.checked_add(1),
        _ => None,
    }
}

/// Only digits: no sign, no space.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// How long to wait before the next try, where the registry says so in seconds.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    number(text.trim()).map(Duration::from_secs)
}

/// A header's number.
pub(super) fn length(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    number(headers.get(name)?.to_str().ok()?.trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_in_one_header_and_in_several() {
        let all = parse_challenges(
            r#"Negotiate, Bearer realm="https://a.example/t?x=1,2",service="s \"q\"", scope="repository:a:pull,push" , Basic realm=x"#,
        );
        let schemes: Vec<&str> = all.iter().map(|one| one.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "bearer", "basic"]);
        assert_eq!(all[1].get("realm"), Some("https://a.example/t?x=1,2"));
        assert_eq!(all[1].get("service"), Some("s \"q\""));
        assert_eq!(all[1].get("scope"), Some("repository:a:pull,push"));
        assert_eq!(all[2].get("realm"), Some("x"));
    }

    #[test]
    fn the_next_page() {
        assert_eq!(
            parse_next("</v2/a?last=b&n=1>; rel=\"next\"").as_deref(),
            Some("/v2/a?last=b&n=1")
        );
        assert_eq!(
            parse_next("<a>; rel=prev, <b>; title=\"x\"; rel=next").as_deref(),
            Some("b")
        );
        assert_eq!(parse_next("<a>; rel=prev"), None);
        assert_eq!(parse_next("nothing"), None);
    }

    #[test]
    fn ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, 9, None)));
        for bad in [
            "bytes 9-5/10",
            "bytes 0-10/10",
            "bytes */10",
            "5-9/10",
            "bytes +1-2/3",
            "",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        assert_eq!(uploaded("0-99"), Some(100));
        assert_eq!(uploaded("bytes=0-99"), Some(100));
        for bad in ["0-0", "1-5", "", "0-18446744073709551615", "x"] {
            assert_eq!(uploaded(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_left(text in "[a-z\"=,; <>\\\\\\-0-9/*]{0,60}|.*") {
            let _ = parse_challenges(&text);
            let _ = parse_next(&text);
            let _ = content_range(&text);
            let _ = uploaded(&text);
        }
    }
}
