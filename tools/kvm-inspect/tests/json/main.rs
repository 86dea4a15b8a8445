// SPDX-License-Identifier: GPL-2.0

//! What `--json` prints, against its schema, and the schema against what is in `docs`.

mod examples;

use std::{collections::BTreeSet, fs, path::PathBuf};

use jsonschema::Validator;
use kvm_inspect_tool::json::{self, COMMANDS};
use serde_json::{json, Value};

/// Members that may be left out.
const OPTIONAL: &[&str] = &[
    "before",
    "bytes",
    "gva",
    "memory",
    "memory_bytes",
    // Of a page that this version does not know.
    "other",
];

/// Where registers are, each of which may be left out.
const REGISTERS: &[&str] = &["regs", "control", "msrs", "debug"];

fn docs(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name)
}

fn schema() -> Value {
    json::schema().to_value()
}

fn validator(schema: &Value) -> Validator {
    jsonschema::draft202012::new(schema).expect("a schema")
}

/// Returns what checks the output of a command.
fn validator_of(command: &str) -> Validator {
    let (_, name) = COMMANDS
        .into_iter()
        .find(|(known, _)| *known == command)
        .expect("a command");
    let mut schema = schema();
    let object = schema.as_object_mut().expect("an object");
    object.remove("oneOf");
    object.insert("$ref".to_owned(), json!(format!("#/$defs/{name}")));
    validator(&schema)
}

fn check(validator: &Validator, command: &str, document: &Value) {
    let errors: Vec<_> = validator
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{command}: {errors:#?}\n{document:#}");
}

/// Returns the places of all objects in a document.
fn objects(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            found.push(path.to_owned());
            for (name, value) in object {
                objects(value, &format!("{path}/{name}"), found);
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                objects(value, &format!("{path}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Returns whether a member of an object may be left out.
fn is_optional(path: &str, name: &str) -> bool {
    let holder = path.rsplit('/').next().unwrap_or_default();
    REGISTERS.contains(&holder) || OPTIONAL.contains(&name)
}

#[test]
fn the_schema_is_one() {
    assert!(jsonschema::meta::is_valid(&schema()));
    let broken = json!({ "type": "nothing" });
    assert!(!jsonschema::meta::is_valid(&broken));
}

#[test]
fn the_file_is_what_the_types_give() {
    let path = docs("kvm-inspect.schema.json");
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(
        text == format!("{:#}\n", schema()),
        "kvm-inspect schema > docs/kvm-inspect.schema.json"
    );
}

#[test]
fn each_output_is_as_the_schema_says() {
    let whole = validator(&schema());
    let mut seen = BTreeSet::new();
    for (command, document) in examples::all() {
        check(&validator_of(command), command, &document);
        // And it is that of no other command.
        check(&whole, command, &document);
        seen.insert(command);
    }
    let all: BTreeSet<_> = COMMANDS.map(|(command, _)| command).into();
    assert_eq!(seen, all);
}

#[test]
fn what_is_wrong_is_refused() {
    let mut tried = 0;
    for (command, document) in examples::all() {
        let validator = validator_of(command);
        let mut refused = |what: &str, document: &Value| {
            tried += 1;
            assert!(!validator.is_valid(document), "{command}: {what}");
        };
        let mut paths = Vec::new();
        objects(&document, "", &mut paths);
        // One of each shape will do.
        let mut shapes = BTreeSet::new();
        paths.retain(|path| {
            let place: String = path.chars().filter(|char| !char.is_ascii_digit()).collect();
            let object = document.pointer(path).and_then(Value::as_object);
            let names: Vec<_> = object.expect("an object").keys().cloned().collect();
            shapes.insert((place, names))
        });
        for path in paths {
            let changed = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
                let mut document = document.clone();
                let object = document.pointer_mut(&path).and_then(Value::as_object_mut);
                change(object.expect("an object"));
                document
            };
            let document = changed(&|object| {
                object.insert("new".to_owned(), json!(1));
            });
            refused(&format!("{path}: a new member"), &document);
            let object = document.pointer(&path).and_then(Value::as_object);
            for name in object
                .expect("an object")
                .keys()
                .filter(|name| *name != "new")
            {
                let renamed = changed(&|object| {
                    let value = object.remove(name).expect("it is there");
                    object.insert(format!("{name}_"), value);
                });
                refused(&format!("{path}: {name} renamed"), &renamed);
                let retyped = changed(&|object| {
                    // No member is of this type.
                    object.insert(name.clone(), json!([[]]));
                });
                refused(&format!("{path}: {name} of another type"), &retyped);
                if !is_optional(&path, name) {
                    let removed = changed(&|object| {
                        object.remove(name);
                    });
                    refused(&format!("{path}: {name} removed"), &removed);
                }
            }
        }
    }
    assert!(tried > 1000, "{tried}");
}

#[test]
fn wrong_values_are_refused() {
    let wrong = [
        ("list", "/json_version", json!(2)),
        ("list", "/vm/0/pid", json!(1.5)),
        ("list", "/vm/0/rss_bytes", json!(1_u64 << 53)),
        ("list", "/hidden", json!(-1)),
        ("regs", "/vcpu/0/state", json!("asleep")),
        ("regs", "/vcpu/0/regs/rip", json!(7)),
        ("regs", "/vcpu/0/regs/rip", json!(null)),
        ("regs", "/vcpu/0/regs/rip", json!("0x00")),
        ("regs", "/vcpu/0/regs/rip", json!("0x10000000000000000")),
        ("slots", "/slot/0/flags/0", json!("writable")),
        ("search", "/done/result", json!("fine")),
        ("search", "/pattern/0/digest", json!("70f3")),
        ("search", "/hit/0/bytes", json!("0")),
        ("read", "/extent/0/kind", json!("Present")),
        ("info", "/linux/proof", json!("refuted")),
        ("dmesg", "/record/0/level", json!(8)),
        ("dump", "/manifest_version", json!(2)),
        ("dump", "/file/format", json!("pdf")),
        ("dump", "/direct_map_base", json!("0x0")),
        ("dump", "/memory/pages/present", json!("1")),
    ];
    let all = examples::all();
    for (command, path, value) in wrong {
        let (_, document) = all
            .iter()
            .find(|(of, document)| *of == command && document.pointer(path).is_some())
            .unwrap_or_else(|| panic!("{command} has no {path}"));
        let mut document = document.clone();
        *document.pointer_mut(path).expect("it is there") = value.clone();
        let is_valid = validator_of(command).is_valid(&document);
        assert!(!is_valid, "{command} {path}: {value}");
    }
}

#[test]
fn counts_of_a_slot_come_together() {
    let validator = validator_of("slots");
    let slot = |document: &Value| document["slot"][0]["present"].is_u64();
    let all = examples::all();
    let (_, document) = all
        .iter()
        .find(|(command, document)| *command == "slots" && slot(document))
        .expect("one with counts");
    for name in ["present", "swapped", "private"] {
        let mut document = document.clone();
        let slot = document["slot"][0].as_object_mut().expect("an object");
        slot.remove(name);
        assert!(!validator.is_valid(&document), "{name}");
    }
}

#[test]
fn the_document_has_an_example_of_each_command() {
    let text = fs::read_to_string(docs("json.md")).expect("it is there");
    let mut seen = BTreeSet::new();
    for section in text.split("\n### ").skip(1) {
        let (title, body) = section.split_once('\n').expect("a body");
        let command = title.trim_matches('`');
        let blocks = body.split("```json\n").skip(1);
        for block in blocks {
            let (block, _) = block.split_once("```").expect("an end");
            let document = serde_json::from_str(block).expect(title);
            check(&validator_of(command), command, &document);
            seen.insert(command.to_owned());
        }
    }
    let all: BTreeSet<_> = COMMANDS.map(|(command, _)| command.to_owned()).into();
    assert_eq!(seen, all);
}
