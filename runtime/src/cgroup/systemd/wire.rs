//! Values and messages of D-Bus as bytes.
//!
//! Belongs here: marshalling. Does not: sockets and what is said. Source:
//! D-Bus Specification, sections Type System and Message Protocol.

use crate::error::{Error, Kind, Result};

/// A value that a property may have.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Byte(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Str(String),
    Path(String),
    Signature(String),
    /// Signature of the elements, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(super) fn str(text: impl Into<String>) -> Value {
        Value::Str(text.into())
    }

    pub(super) fn signature(&self) -> String {
        match self {
            Value::Bool(_) => "b".into(),
            Value::Byte(_) => "y".into(),
            Value::I16(_) => "n".into(),
            Value::U16(_) => "q".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::Double(_) => "d".into(),
            Value::Str(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => {
                let inner: String = fields.iter().map(Value::signature).collect();
                format!("({inner})")
            }
            Value::Variant(_) => "v".into(),
        }
    }
}

/// Properties in the form `a(sv)`.
pub(super) fn properties(list: &[(String, Value)]) -> Value {
    let pairs = list
        .iter()
        .map(|(name, value)| {
            Value::Struct(vec![
                Value::str(name),
                Value::Variant(Box::new(value.clone())),
            ])
        })
        .collect();
    Value::Array("(sv)".into(), pairs)
}

/// Alignment of values whose signature begins with this letter.
fn alignment(signature: &str) -> usize {
    match signature.bytes().next() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 4,
    }
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn length(bytes: usize) -> [u8; 4] {
    // A message may have 128 MiB; the caller's limits on configurations keep far below.
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    align(out, 4);
    out.extend(length(text.len()));
    out.extend(text.as_bytes());
    out.push(0);
}

fn put_signature(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend(text.as_bytes());
    out.push(0);
}

fn put(out: &mut Vec<u8>, value: &Value) {
    align(out, alignment(&value.signature()));
    match value {
        Value::Bool(value) => out.extend(u32::from(*value).to_le_bytes()),
        Value::Byte(value) => out.push(*value),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::Double(value) => out.extend(value.to_le_bytes()),
        Value::Str(text) | Value::Path(text) => put_str(out, text),
        Value::Signature(text) => put_signature(out, text),
        Value::Array(element, values) => {
            let at = out.len();
            out.extend([0; 4]);
            align(out, alignment(element));
            let start = out.len();
            for value in values {
                put(out, value);
            }
            let size = length(out.len() - start);
            if let Some(place) = out.get_mut(at..at + 4) {
                place.copy_from_slice(&size);
            }
        }
        Value::Struct(fields) => fields.iter().for_each(|field| put(out, field)),
        Value::Variant(value) => {
            put_signature(out, &value.signature());
            put(out, value);
        }
    }
}

/// A method call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// Empty on a connection without a bus.
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) arguments: &'a [Value],
}

impl Call<'_> {
    /// The message, little-endian.
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Vec::with_capacity(512);
        let mut signature = String::new();
        for argument in self.arguments {
            signature.push_str(&argument.signature());
            put(&mut body, argument);
        }
        let field = |code: u8, value: Value| {
            Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))])
        };
        let mut fields = vec![
            field(1, Value::Path(self.path.into())),
            field(2, Value::str(self.interface)),
            field(3, Value::str(self.member)),
        ];
        if !self.destination.is_empty() {
            fields.push(field(6, Value::str(self.destination)));
        }
        if !signature.is_empty() {
            fields.push(field(8, Value::Signature(signature)));
        }
        // Little-endian, method call, no flags, version 1.
        let mut out = vec![b'l', 1, 0, 1];
        out.extend(length(body.len()));
        out.extend(serial.to_le_bytes());
        put(&mut out, &Value::Array("(yv)".into(), fields));
        align(&mut out, 8);
        out.append(&mut body);
        out
    }
}

/// A message from the other side, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Incoming {
    /// 2: reply, 3: error, 4: signal.
    pub(super) kind: u8,
    pub(super) reply_to: u32,
    pub(super) member: String,
    pub(super) error: String,
    /// The strings and object paths at the beginning of the body, numbers passed over.
    pub(super) strings: Vec<String>,
    /// Whether an array without elements follows those.
    pub(super) empty_array: bool,
}

/// Length of the fixed part: enough to know the whole length.
pub(super) const FIXED: usize = 16;

/// Longest message taken: systemd's replies have a few hundred bytes.
const LONGEST: usize = 1 << 20;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        let bytes: [u8; 4] = self.take(4)?.try_into().ok()?;
        Some(if self.big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(text)
    }

    fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.text(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }
}

/// Lengths of header fields and body that follow the fixed part, by that part.
///
/// # Errors
/// Bytes that are no message, or one of absurd length.
pub(super) fn rest_length(fixed: &[u8]) -> Result<usize> {
    let bad = || Error::new(Kind::System, "D-Bus: the other side sent no valid message");
    let big = match fixed.first() {
        Some(b'l') => false,
        Some(b'B') => true,
        _ => return Err(bad()),
    };
    let mut reader = Reader {
        bytes: fixed,
        at: 4,
        big,
    };
    let body = reader.u32().ok_or_else(bad)?;
    reader.u32();
    let fields = reader.u32().ok_or_else(bad)?;
    let (body, fields) = (
        usize::try_from(body).unwrap_or(usize::MAX),
        usize::try_from(fields).unwrap_or(usize::MAX),
    );
    if body > LONGEST || fields > LONGEST {
        return Err(bad());
    }
    Ok(fields.next_multiple_of(8) + body)
}

/// Reads a whole message.
///
/// # Errors
/// A header that does not hold together.
pub(super) fn decode(bytes: &[u8]) -> Result<Incoming> {
    decode_parts(bytes)
        .ok_or_else(|| Error::new(Kind::System, "D-Bus: the other side sent a cut-off message"))
}

fn decode_parts(bytes: &[u8]) -> Option<Incoming> {
    let mut reader = Reader {
        bytes,
        at: 0,
        big: bytes.first() == Some(&b'B'),
    };
    let mut message = Incoming {
        kind: *bytes.get(1)?,
        ..Incoming::default()
    };
    reader.at = 12;
    let end = usize::try_from(reader.u32()?).ok()?.checked_add(FIXED)?;
    let mut body_signature = String::new();
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        match (code, reader.signature()?.as_str()) {
            (3, "s") => message.member = reader.string()?,
            (4, "s") => message.error = reader.string()?,
            (5, "u") => message.reply_to = reader.u32()?,
            (8, "g") => body_signature = reader.signature()?,
            (_, "s" | "o") => drop(reader.string()?),
            (_, "g") => drop(reader.signature()?),
            (_, "u") => drop(reader.u32()?),
            _ => return None,
        }
    }
    reader.align(8);
    for letter in body_signature.chars() {
        match letter {
            's' | 'o' => message.strings.push(reader.string()?),
            'u' => drop(reader.u32()?),
            'v' => match reader.signature()?.as_str() {
                "s" | "o" => message.strings.push(reader.string()?),
                _ => break,
            },
            'a' => {
                message.empty_array = reader.u32()? == 0;
                break;
            }
            // Nothing that is waited for has other types before its strings.
            _ => break,
        }
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_the_specification_has_it() {
        let call = Call {
            destination: "d",
            path: "/p",
            interface: "i",
            member: "M",
            arguments: &[
                Value::str("x"),
                Value::Array("y".into(), vec![Value::Byte(7)]),
            ],
        };
        let bytes = call.encode(5);
        assert_eq!(&bytes[..4], b"l\x01\0\x01");
        // Body: string of length 1, padding, array of length 1.
        assert_eq!(&bytes[4..8], &13_u32.to_le_bytes());
        assert_eq!(
            &bytes[bytes.len() - 13..],
            b"\x01\0\0\0x\0\0\0\x01\0\0\0\x07"
        );
        assert_eq!((bytes.len() - 13) % 8, 0);
        assert_eq!(rest_length(&bytes[..FIXED]).unwrap(), bytes.len() - FIXED);
        assert_eq!(decode(&bytes).unwrap().member, "M");
    }

    #[test]
    fn padding_before_elements_does_not_count() {
        let mut out = Vec::new();
        put(&mut out, &properties(&[("A".into(), Value::U64(1))]));
        // Length, padding to 8, string, signature of the variant, padding, number.
        assert_eq!(&out[..4], &24_u32.to_le_bytes());
        assert_eq!(out.len(), 8 + 24);
    }

    #[test]
    fn reads_any_bytes() {
        for length in 0..40 {
            for fill in [0_u8, 1, b'l', b'B', 0xff] {
                let mut bytes = vec![fill; length];
                if let Some(first) = bytes.first_mut() {
                    *first = b'l';
                }
                let _ = decode(&bytes);
                let _ = rest_length(&bytes);
            }
        }
    }
}
