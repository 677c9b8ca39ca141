//! Protocol buffers, as far as criu's messages need them: varints and length-delimited fields.
//!
//! Belongs here: the encoding (protobuf.dev, "Encoding"). Does not: which fields criu has (`rpc`).

/// Field of a message that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub number: u64,
    pub value: Value<'a>,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Integers, booleans and enumerations.
    Varint(u64),
    /// Strings, bytes and messages.
    Bytes(&'a [u8]),
    /// 32 or 64 bits; criu uses neither, so they are only passed over.
    Fixed,
}

impl<'a> Value<'a> {
    /// An int32, which travels as 64 bits with its sign.
    pub fn int(self) -> Option<i32> {
        match self {
            Value::Varint(value) => i32::try_from(value.cast_signed()).ok(),
            Value::Bytes(_) | Value::Fixed => None,
        }
    }

    /// A boolean.
    pub fn bool(self) -> bool {
        !matches!(self, Value::Varint(0))
    }

    /// The bytes of a string or message; none of any other field.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Varint(_) | Value::Fixed => &[],
        }
    }

    /// A string, whatever it contains.
    pub fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// The fields of a message, in the order in which they stand there.
/// Ends at the first that is cut off or of no known form: [`Fields::is_damaged`] tells.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    damaged: bool,
}

impl<'a> Fields<'a> {
    pub fn of(message: &'a [u8]) -> Fields<'a> {
        Fields {
            rest: message,
            damaged: false,
        }
    }

    /// Whether reading ended before the message did.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<Field<'a>> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        let number = key >> 3;
        (number != 0).then_some(Field { number, value })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        if self.damaged || self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        self.damaged = field.is_none();
        field
    }
}

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn raw(&mut self, mut value: u64) {
        loop {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            if value == 0 {
                return self.0.push(low & 0x7f);
            }
            self.0.push(low | 0x80);
        }
    }

    /// An integer or enumeration.
    pub fn int(&mut self, field: u32, value: i32) {
        self.raw(u64::from(field) << 3);
        self.raw(i64::from(value).cast_unsigned());
    }

    /// A boolean; false is what it is without the field.
    pub fn flag(&mut self, field: u32, value: bool) {
        if value {
            self.int(field, 1);
        }
    }

    /// A string.
    pub fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    /// A message within the message.
    pub fn message(&mut self, field: u32, write: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.raw(u64::from(field) << 3 | 2);
        self.raw(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// The message as it is sent.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_encodings_own_examples() {
        // From the description of the encoding: a = 150, b = "testing", c = { a = 150 }, and -2.
        let mut writer = Writer::default();
        writer.int(1, 150);
        writer.text(2, "testing");
        writer.message(3, |inner| inner.int(1, 150));
        writer.int(4, -2);
        let bytes = writer.finish();
        let expected = [
            &[0x08, 0x96, 0x01][..],
            &[0x12, 0x07],
            b"testing",
            &[0x1a, 0x03, 0x08, 0x96, 0x01],
            &[
                0x20, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ],
        ]
        .concat();
        assert_eq!(bytes, expected);
        let mut fields = Fields::of(&bytes);
        assert_eq!(fields.next().unwrap().value.int(), Some(150));
        assert_eq!(fields.next().unwrap().value.text(), "testing");
        let inner = Fields::of(fields.next().unwrap().value.bytes()).next();
        assert_eq!(inner.unwrap().value, Value::Varint(150));
        assert_eq!(fields.next().unwrap().value.int(), Some(-2));
        assert!(fields.next().is_none() && !fields.is_damaged());
    }

    #[test]
    fn damage_is_told() {
        for bytes in [
            &b"\x08"[..],
            b"\x12\x07test",
            b"\x0b",
            b"\x00\x00",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x09\x01\x02",
        ] {
            let mut fields = Fields::of(bytes);
            while fields.next().is_some() {}
            assert!(fields.is_damaged(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for field in Fields::of(&bytes) {
                let _ = (field.value.int(), field.value.bool(), field.value.text());
                for inner in Fields::of(field.value.bytes()) {
                    let _ = inner.value.text();
                }
            }
        }

        #[test]
        fn what_is_written_is_read(
            ints in proptest::collection::vec((1u32..2000, any::<i32>()), 0..20),
            text in ".{0,300}",
        ) {
            let mut writer = Writer::default();
            for (field, value) in &ints {
                writer.int(*field, *value);
            }
            writer.text(77, &text);
            let bytes = writer.finish();
            let mut fields = Fields::of(&bytes);
            for (number, value) in &ints {
                let field = fields.next().unwrap();
                prop_assert_eq!(field.number, u64::from(*number));
                prop_assert_eq!(field.value.int(), Some(*value));
            }
            prop_assert_eq!(fields.next().unwrap().value.text(), text);
            prop_assert!(fields.next().is_none() && !fields.is_damaged());
        }
    }
}
