// SPDX-License-Identifier: GPL-2.0

//! The version of what is printed.

use std::borrow::Cow;

use schemars::{json_schema, JsonSchema, Schema, SchemaGenerator};
use serde::{de::Error, Deserialize, Deserializer, Serialize, Serializer};

/// The only version that this program prints and reads. It changes if a member or a word goes away,
/// or gets another type, unit or meaning; not if some are added.
const VERSION: u32 = 1;

/// The number of that version. Objects of another are not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(VERSION)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            VERSION => Ok(Self),
            version => Err(D::Error::custom(format_args!(
                "the object is of version {version}, and only {VERSION} is known"
            ))),
        }
    }
}

impl JsonSchema for Version {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Version".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": VERSION })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_version_is_read() {
        assert_eq!(serde_json::to_string(&Version).expect("JSON"), "1");
        assert_eq!(serde_json::from_str::<Version>("1").expect("read"), Version);
        for text in ["0", "2", "-1", "\"1\"", "null"] {
            assert!(serde_json::from_str::<Version>(text).is_err(), "{text}");
        }
    }
}
