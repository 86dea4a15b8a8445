// SPDX-License-Identifier: GPL-2.0

//! The schema of what is printed, made from the types (JSON Schema, draft 2020-12).
//!
//! It tells all of this version and nothing else: a member that it does not have is an error, so
//! that a test finds what was renamed. Programs that read the output leave out what they do not
//! know instead (`docs/json.md`).

use schemars::{
    generate::SchemaSettings,
    json_schema,
    transform::{RecursiveTransform, Transform},
    Schema,
};
use serde_json::{json, Map, Value};

use super::{Dmesg, Info, Kinds, List, Read, Regs, Search, Slots};
use crate::manifest::Manifest;

/// The commands that have `--json`, with the name of what they print in `$defs`.
pub const COMMANDS: [(&str, &str); 8] = [
    ("list", "List"),
    ("regs", "Regs"),
    ("slots", "Slots"),
    ("search", "Search"),
    ("read", "Read"),
    ("info", "Info"),
    ("dmesg", "Dmesg"),
    ("dump", "Manifest"),
];

/// The highest number that each program reads exactly.
const MAX_EXACT: i64 = (1 << 53) - 1;

/// Returns the schema.
#[must_use]
pub fn schema() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut generator = settings.into_generator();
    let commands = [
        generator.subschema_for::<List>(),
        generator.subschema_for::<Regs>(),
        generator.subschema_for::<Slots>(),
        generator.subschema_for::<Search>(),
        generator.subschema_for::<Read>(),
        generator.subschema_for::<Info>(),
        generator.subschema_for::<Dmesg>(),
        generator.subschema_for::<Manifest>(),
    ];
    let mut schema = json_schema!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kvm-inspect --json",
        "description": "What each command prints, and the manifest of a dump. See docs/json.md",
        "oneOf": commands,
        "$defs": generator.take_definitions(false),
    });
    RecursiveTransform(sharpen).transform(&mut schema);
    schema
}

/// Has a schema say what the types alone do not: that there are no other members, that one which
/// may be left out is never `null`, and how big numbers are.
fn sharpen(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    // It is for who writes such an object, and nobody does.
    object.remove("default");
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    bound(object);
    let required = object.get("required").and_then(Value::as_array).cloned();
    let required = required.unwrap_or_default();
    let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    let optional = properties
        .iter_mut()
        .filter(|(name, _)| !required.iter().any(|required| required == *name));
    optional
        .filter_map(|(_, property)| property.as_object_mut())
        .for_each(take_null);
    object.insert("additionalProperties".to_owned(), false.into());
}

/// Gives a number its bounds, in place of a format that JSON Schema does not have.
fn bound(object: &mut Map<String, Value>) {
    let format = object.get("format").and_then(Value::as_str);
    let (minimum, maximum): (i64, i64) = match format {
        Some("int16") => (i16::MIN.into(), i16::MAX.into()),
        Some("int32") => (i32::MIN.into(), i32::MAX.into()),
        Some("uint8") => (0, u8::MAX.into()),
        Some("uint16") => (0, u16::MAX.into()),
        Some("uint32") => (0, u32::MAX.into()),
        Some("uint64" | "uint") => (0, MAX_EXACT),
        _ => return,
    };
    object.remove("format");
    object.entry("minimum").or_insert(minimum.into());
    object.entry("maximum").or_insert(maximum.into());
}

/// Takes `null` from what a member may be.
fn take_null(property: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = property.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            property.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(mut choices)) = property.remove("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
        if let [Value::Object(only)] = choices.as_slice() {
            property.extend(only.clone());
        } else {
            property.insert("anyOf".to_owned(), choices.into());
        }
    }
}

/// Has the counts of a memslot's pages come together. Only `other` may be left out.
pub(super) fn all_or_none(schema: &mut Schema) {
    let names = Kinds::default().named().map(|(name, _)| name);
    let all: Vec<_> = names.iter().filter(|name| **name != "other").collect();
    let needed = names.iter().map(|name| ((*name).to_owned(), json!(all)));
    schema.insert(
        "dependentRequired".to_owned(),
        Value::Object(needed.collect()),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `check` with each subschema, and where it is.
    fn each(value: &Value, path: &str, check: &mut impl FnMut(&str, &Map<String, Value>)) {
        match value {
            Value::Object(object) => {
                check(path, object);
                for (name, value) in object {
                    each(value, &format!("{path}/{name}"), check);
                }
            }
            Value::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    each(value, &format!("{path}/{index}"), check);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn each_member_is_described_and_no_other_is_allowed() {
        let mut members = 0;
        each(&schema().to_value(), "", &mut |path, object| {
            let Some(Value::Object(properties)) = object.get("properties") else {
                return;
            };
            assert_eq!(object["additionalProperties"], false, "{path}");
            for (name, property) in properties {
                // The name of a kind says it; `pages` tells what they are.
                let is_count = path.ends_with("/pages");
                assert!(
                    is_count || property.get("description").is_some(),
                    "{path}: {name}"
                );
                members += 1;
            }
        });
        assert!(members > 200, "{members}");
    }

    #[test]
    fn each_number_has_bounds() {
        each(&schema().to_value(), "", &mut |path, object| {
            let is_number = |name: &Value| name == "integer" || name == "number";
            let has_number = object.get("type").is_some_and(|name| {
                is_number(name) || name.as_array().is_some_and(|all| all.iter().any(is_number))
            });
            if has_number {
                assert!(object.contains_key("minimum"), "{path}");
                assert!(object.contains_key("maximum"), "{path}");
                assert!(!object.contains_key("format"), "{path}");
            }
        });
    }

    #[test]
    fn each_command_has_its_object() {
        let schema = schema().to_value();
        let listed = schema["oneOf"].as_array().expect("a list");
        assert_eq!(listed.len(), COMMANDS.len());
        for (listed, (_, name)) in listed.iter().zip(COMMANDS) {
            assert_eq!(listed["$ref"], format!("#/$defs/{name}"));
            assert!(schema["$defs"][name].is_object(), "{name}");
        }
    }
}
