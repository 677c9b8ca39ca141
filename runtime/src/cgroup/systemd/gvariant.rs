//! GVariant text, the form in which annotations give properties of a unit.
//!
//! Source: "GVariant Text Format" of the GLib reference. Read here are
//! booleans, numbers, strings, arrays and tuples, with `@type` and type words;
//! dictionaries, variants and maybe types occur in no property of a unit.

use super::wire::Value;

/// Deepest nesting read.
const MAX_DEPTH: usize = 16;

/// Reads a value; the error says what is wrong.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser {
        rest: text,
        depth: 0,
    };
    let value = parser.value(None)?;
    parser.skip();
    if parser.rest.is_empty() {
        Ok(value)
    } else {
        Err(format!("unexpected {:?} after the value", parser.rest))
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

fn type_of_word(word: &str) -> Option<&'static str> {
    Some(match word {
        "boolean" => "b",
        "byte" => "y",
        "int16" => "n",
        "uint16" => "q",
        "int32" | "handle" => "i",
        "uint32" => "u",
        "int64" => "x",
        "uint64" => "t",
        "double" => "d",
        "string" => "s",
        "objectpath" => "o",
        "signature" => "g",
        _ => return None,
    })
}

/// The first complete type of a signature, and what follows it.
fn split_type(signature: &str) -> Option<(&str, &str)> {
    let length = match signature.chars().next()? {
        'a' => 1 + split_type(signature.get(1..)?)?.0.len(),
        '(' => {
            let mut depth = 0_usize;
            signature.char_indices().find_map(|(at, letter)| {
                match letter {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
                (depth == 0).then_some(at + 1)
            })?
        }
        'b' | 'y' | 'n' | 'q' | 'i' | 'u' | 'x' | 't' | 'd' | 's' | 'o' | 'g' => 1,
        _ => return None,
    };
    Some((signature.get(..length)?, signature.get(length..)?))
}

impl<'a> Parser<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, letter: char) -> bool {
        self.skip();
        match self.rest.strip_prefix(letter) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self, part: impl Fn(char) -> bool) -> &'a str {
        let end = self
            .rest
            .find(|letter| !part(letter))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn value(&mut self, expected: Option<&str>) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("nested too deeply".into());
        }
        let value = self.value_inner(expected)?;
        self.depth -= 1;
        match expected {
            Some(wanted) if value.signature() != wanted => Err(format!(
                "a value of type {:?} where {wanted:?} is needed",
                value.signature()
            )),
            _ => Ok(value),
        }
    }

    fn value_inner(&mut self, expected: Option<&str>) -> Result<Value, String> {
        self.skip();
        match self.rest.chars().next() {
            None => Err("a value is missing".into()),
            Some('@') => {
                self.eat('@');
                let signature = self.word(|letter| !letter.is_whitespace() && letter != '[');
                match split_type(signature) {
                    Some((_, "")) => self.value(Some(signature)),
                    _ => Err(format!("unknown type {signature:?}")),
                }
            }
            Some('\'' | '"') => self.string().map(|text| match expected {
                Some("o") => Value::Path(text),
                Some("g") => Value::Signature(text),
                _ => Value::Str(text),
            }),
            Some('[') => self.array(expected),
            Some('(') => self.tuple(expected),
            Some(letter) if letter.is_ascii_digit() || matches!(letter, '-' | '+' | '.') => {
                self.number(expected)
            }
            Some(letter) if letter.is_ascii_alphabetic() => {
                let word = self.word(|letter| letter.is_ascii_alphanumeric());
                match (word, type_of_word(word)) {
                    ("true", _) => Ok(Value::Bool(true)),
                    ("false", _) => Ok(Value::Bool(false)),
                    ("inf" | "nan", _) => Err(format!("{word} is no number for a unit")),
                    (_, Some(signature)) => self.value(Some(signature)),
                    _ => Err(format!("unknown word {word:?}; strings stand in quotes")),
                }
            }
            Some(letter) => Err(format!("unexpected {letter:?}")),
        }
    }

    fn array(&mut self, expected: Option<&str>) -> Result<Value, String> {
        self.eat('[');
        let mut element = match expected {
            Some(signature) => match signature.strip_prefix('a') {
                Some(element) => Some(element.to_owned()),
                None => return Err(format!("an array where {signature:?} is needed")),
            },
            None => None,
        };
        let mut values = Vec::new();
        while !self.eat(']') {
            if !values.is_empty() && !self.eat(',') {
                return Err("an array without its ]".into());
            }
            let value = self.value(element.as_deref())?;
            element.get_or_insert_with(|| value.signature());
            values.push(value);
        }
        match element {
            Some(element) => Ok(Value::Array(element, values)),
            None => Err("an empty array needs its type, such as @as []".into()),
        }
    }

    fn tuple(&mut self, expected: Option<&str>) -> Result<Value, String> {
        self.eat('(');
        let mut types = match expected {
            Some(signature) => {
                let inner = signature
                    .strip_prefix('(')
                    .and_then(|rest| rest.strip_suffix(')'));
                Some(inner.ok_or_else(|| format!("a tuple where {signature:?} is needed"))?)
            }
            None => None,
        };
        let mut fields = Vec::new();
        while !self.eat(')') {
            if !fields.is_empty() && !self.eat(',') {
                return Err("a tuple without its )".into());
            }
            if self.eat(')') {
                break;
            }
            let first = match types {
                Some(signature) => {
                    let (first, rest) =
                        split_type(signature).ok_or("a tuple with too many fields")?;
                    types = Some(rest);
                    Some(first)
                }
                None => None,
            };
            fields.push(self.value(first)?);
        }
        if fields.is_empty() {
            return Err("an empty tuple".into());
        }
        Ok(Value::Struct(fields))
    }

    fn string(&mut self) -> Result<String, String> {
        let mut letters = self.rest.chars();
        let quote = letters.next();
        let mut text = String::new();
        loop {
            let Some(letter) = letters.next() else {
                return Err("a string without its closing quote".into());
            };
            match letter {
                letter if Some(letter) == quote => break,
                '\\' => match letters.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some('a') => text.push('\u{7}'),
                    Some('b') => text.push('\u{8}'),
                    Some('f') => text.push('\u{c}'),
                    Some('v') => text.push('\u{b}'),
                    Some(kind @ ('u' | 'U')) => {
                        let count = if kind == 'u' { 4 } else { 8 };
                        let digits: String = letters.by_ref().take(count).collect();
                        let code = u32::from_str_radix(&digits, 16)
                            .ok()
                            .and_then(char::from_u32);
                        text.push(code.ok_or_else(|| format!("{digits:?} is no character"))?);
                    }
                    Some(other) => text.push(other),
                    None => return Err("a string without its closing quote".into()),
                },
                '\0' => return Err("a string with a NUL".into()),
                letter => text.push(letter),
            }
        }
        self.rest = letters.as_str();
        Ok(text)
    }

    fn number(&mut self, expected: Option<&str>) -> Result<Value, String> {
        let word = self.word(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter));
        let bad = || {
            format!(
                "{word:?} is no number of type {:?}",
                expected.unwrap_or("i")
            )
        };
        let (sign, digits) = match word.strip_prefix(['-', '+']) {
            Some(digits) if word.starts_with('-') => (-1, digits),
            Some(digits) => (1, digits),
            None => (1, word),
        };
        let whole: Option<i128> = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
            Some(hex) => i128::from_str_radix(hex, 16).ok(),
            None if digits.len() > 1 && digits.starts_with('0') => {
                i128::from_str_radix(digits, 8).ok()
            }
            None => digits.parse().ok(),
        };
        let Some(whole) = whole
            .filter(|_| expected != Some("d"))
            .map(|number| number * sign)
        else {
            return match expected {
                None | Some("d") => word.parse().map(Value::Double).map_err(|_| bad()),
                Some(_) => Err(bad()),
            };
        };
        match expected {
            None | Some("i") => whole.try_into().map(Value::I32).ok(),
            Some("y") => whole.try_into().map(Value::Byte).ok(),
            Some("n") => whole.try_into().map(Value::I16).ok(),
            Some("q") => whole.try_into().map(Value::U16).ok(),
            Some("u") => whole.try_into().map(Value::U32).ok(),
            Some("x") => whole.try_into().map(Value::I64).ok(),
            Some("t") => whole.try_into().map(Value::U64).ok(),
            Some(_) => None,
        }
        .ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_types_of_units() {
        let strings = |texts: &[&str]| {
            Value::Array(
                "s".into(),
                texts.iter().map(|text| Value::str(*text)).collect(),
            )
        };
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("5", Value::I32(5)),
            ("-0x10", Value::I32(-16)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            ("@t 7", Value::U64(7)),
            ("1.5", Value::Double(1.5)),
            ("double 2", Value::Double(2.0)),
            ("'it\\'s'", Value::str("it's")),
            ("\"\\u00e4\"", Value::str("ä")),
            ("['a', \"b\"]", strings(&["a", "b"])),
            ("@as []", strings(&[])),
            (
                "[byte 1, 2]",
                Value::Array("y".into(), vec![Value::Byte(1), Value::Byte(2)]),
            ),
            (
                "[('a', uint32 1)]",
                Value::Array(
                    "(su)".into(),
                    vec![Value::Struct(vec![Value::str("a"), Value::U32(1)])],
                ),
            ),
            (
                "@(st) ('x', 2)",
                Value::Struct(vec![Value::str("x"), Value::U64(2)]),
            ),
            ("objectpath '/a'", Value::Path("/a".into())),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "'",
            "[]",
            "()",
            "nothing",
            "abc",
            "5 6",
            "uint64 -1",
            "byte 256",
            "[1, 'a']",
            "{'a': 1}",
            "<5>",
            "@z 5",
            "@a 5",
            "@as 5",
            "3000000000",
            "[1",
            "(1",
            "@(s) ('a', 'b')",
            "\\",
            "@",
        ] {
            assert!(parse(text).is_err(), "{text:?}: {:?}", parse(text));
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
