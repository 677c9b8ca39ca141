//! Our reading of the specification against its own files and against another reader.
//!
//! The schemas and example configurations come with the Go module
//! github.com/opencontainers/runtime-spec; `go mod download` brings it into
//! the module cache. Where go or the network is missing, the tests say so and skip.

#[cfg(test)]
mod skips;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::OnceLock;

    use knarr_runtime::spec::features::features;
    use knarr_runtime::spec::parse::parse;
    use knarr_runtime::spec::template::{Rootless, Template, template};
    use knarr_runtime::spec::validate::{Context, Severity, validate};
    use knarr_runtime::spec::{Spec, mount_options};
    use serde_json::{Map, Value};

    const MODULE: &str = "github.com/opencontainers/runtime-spec@v1.3.0";

    /// The directory of the specification, or why it is not there (printed).
    fn specification() -> Option<&'static Path> {
        static DIRECTORY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let found = DIRECTORY.get_or_init(|| {
            let output = Command::new("go")
                .args(["mod", "download", "-json", MODULE])
                .current_dir(std::env::temp_dir())
                .env("GOFLAGS", "-mod=mod")
                .output()
                .map_err(|error| format!("cannot run go: {error}"))?;
            let answer: Value = serde_json::from_slice(&output.stdout)
                .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
            match answer["Dir"].as_str() {
                Some(directory) => Ok(PathBuf::from(directory)),
                None => Err(answer["Error"].to_string()),
            }
        });
        match found {
            Ok(directory) => Some(directory),
            Err(reason) => {
                crate::skips::note(format_args!("{MODULE} is not available: {reason}"));
                None
            }
        }
    }

    fn json_files(directory: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "json"))
            .collect();
        files.sort();
        assert!(!files.is_empty());
        files
    }

    fn document(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// A JSON schema (draft 4), as far as the specification's files use it. A
    /// keyword that is not known here fails the test rather than pass unchecked.
    struct Schema {
        directory: PathBuf,
    }

    impl Schema {
        fn check(&self, file: &str, value: &Value) -> Result<(), String> {
            let schema = document(&self.directory.join(file));
            self.matches(file, &schema, value, "")
        }

        fn matches(
            &self,
            file: &str,
            schema: &Value,
            value: &Value,
            at: &str,
        ) -> Result<(), String> {
            let fail = |why: String| Err(format!("{at}: {why}"));
            for (keyword, rule) in schema.as_object().unwrap() {
                match keyword.as_str() {
                    "description" | "$schema" => {}
                    "$ref" => {
                        let reference = rule.as_str().unwrap();
                        let (other, pointer) = reference.split_once('#').unwrap();
                        let other = if other.is_empty() { file } else { other };
                        let all = document(&self.directory.join(other));
                        let pointer = format!("/{}", pointer.trim_start_matches('/'));
                        let target = all.pointer(&pointer).unwrap();
                        self.matches(other, target, value, at)?;
                    }
                    "type" => {
                        let fits = match rule.as_str().unwrap() {
                            "object" => value.is_object(),
                            "array" => value.is_array(),
                            "string" => value.is_string(),
                            "boolean" => value.is_boolean(),
                            "integer" => value.is_i64() || value.is_u64(),
                            other => panic!("type {other}"),
                        };
                        if !fits {
                            return fail(format!("{value} is no {rule}"));
                        }
                    }
                    "properties" => {
                        for (name, rule) in rule.as_object().unwrap() {
                            if let Some(member) = value.get(name) {
                                self.matches(file, rule, member, &format!("{at}/{name}"))?;
                            }
                        }
                    }
                    "required" => {
                        for name in rule.as_array().unwrap() {
                            if value.get(name.as_str().unwrap()).is_none() {
                                return fail(format!("lacks {name}"));
                            }
                        }
                    }
                    "additionalProperties" | "patternProperties" => {
                        // Used for maps only, whose members all follow one rule.
                        let rule = if keyword == "patternProperties" {
                            &rule[".{1,}"]
                        } else {
                            rule
                        };
                        for (name, member) in value.as_object().unwrap() {
                            self.matches(file, rule, member, &format!("{at}/{name}"))?;
                        }
                    }
                    "items" => {
                        for (index, item) in value.as_array().unwrap().iter().enumerate() {
                            self.matches(file, rule, item, &format!("{at}/{index}"))?;
                        }
                    }
                    "enum" => {
                        if !rule.as_array().unwrap().contains(value) {
                            return fail(format!("{value} is none of {rule}"));
                        }
                    }
                    "anyOf" => {
                        let rules = rule.as_array().unwrap();
                        if !rules
                            .iter()
                            .any(|rule| self.matches(file, rule, value, at).is_ok())
                        {
                            return fail(format!("{value} fits nothing"));
                        }
                    }
                    "allOf" => {
                        for rule in rule.as_array().unwrap() {
                            self.matches(file, rule, value, at)?;
                        }
                    }
                    "minimum" => {
                        let low = value
                            .as_i64()
                            .is_some_and(|value| value < rule.as_i64().unwrap());
                        if low {
                            return fail(format!("{value} is less than {rule}"));
                        }
                    }
                    "maximum" => {
                        let high = value
                            .as_u64()
                            .is_some_and(|value| value > rule.as_u64().unwrap());
                        if high {
                            return fail(format!("{value} is more than {rule}"));
                        }
                    }
                    "minItems" => {
                        if (value.as_array().unwrap().len() as u64) < rule.as_u64().unwrap() {
                            return fail("has too few items".into());
                        }
                    }
                    "pattern" => {
                        let text = value.as_str().unwrap();
                        let rest =
                            |start: &str| text.strip_prefix(start).filter(|rest| !rest.is_empty());
                        let upper =
                            |text: &str| text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
                        let fits = match rule.as_str().unwrap() {
                            "^CAP_[A-Z_]+$" => rest("CAP_").is_some_and(upper),
                            "^RLIMIT_[A-Z]+$" => rest("RLIMIT_").is_some_and(upper),
                            "^[cbup]$" => matches!(text, "c" | "b" | "u" | "p"),
                            other => panic!("pattern {other}"),
                        };
                        if !fits {
                            return fail(format!("{text} does not match {rule}"));
                        }
                    }
                    other => panic!("{file}: keyword {other}"),
                }
            }
            Ok(())
        }
    }

    #[test]
    fn features_follow_the_schema() {
        let Some(specification) = specification() else {
            return;
        };
        let schema = Schema {
            directory: specification.join("schema"),
        };
        let value = serde_json::to_value(features()).unwrap();
        schema.check("features-schema.json", &value).unwrap();
        // The checker is no rubber stamp.
        let mut wrong = value.clone();
        wrong["linux"]["namespaces"][0] = "net".into();
        assert!(schema.check("features-schema.json", &wrong).is_err());
        let mut wrong = value;
        wrong["ociVersionMin"].take();
        assert!(schema.check("features-schema.json", &wrong).is_err());
    }

    #[test]
    fn features_are_accepted_in_configurations() {
        let features = features();
        assert_eq!(features.mount_options.len(), 62);
        for version in [features.oci_version_min, features.oci_version_max] {
            let text = format!(r#"{{"ociVersion": "{version}", "root": {{"path": "rootfs"}}}}"#);
            let spec: Spec<'_> = parse("config.json", text.as_bytes()).unwrap();
            assert_eq!(validate(&spec, &Context::default()), []);
        }
    }

    #[test]
    fn every_mount_option_of_the_prose_is_known() {
        let Some(specification) = specification() else {
            return;
        };
        let prose = fs::read_to_string(specification.join("config.md")).unwrap();
        let options: Vec<&str> = prose
            .lines()
            .filter(|line| {
                ["| MUST ", "| SHOULD ", "| MAY "]
                    .iter()
                    .any(|word| line.contains(word))
            })
            .filter_map(|line| line.trim().strip_prefix('`')?.split('`').next())
            .map(str::trim)
            .collect();
        assert_eq!(options.len(), 61, "{options:?}");
        for option in options {
            assert!(
                mount_options::option_names().any(|name| name == option),
                "{option}"
            );
        }
    }

    #[test]
    fn templates_follow_the_schema() {
        let Some(specification) = specification() else {
            return;
        };
        let schema = Schema {
            directory: specification.join("schema"),
        };
        let rootless = Some(Rootless {
            uid: 1000,
            gid: 1000,
        });
        for choice in [
            Template::default(),
            Template {
                rootless,
                cgroup_namespace: true,
            },
        ] {
            let value = serde_json::to_value(template(choice)).unwrap();
            schema.check("config-schema.json", &value).unwrap();
        }
    }

    #[test]
    fn good_examples_pass_and_bad_ones_do_not() {
        let Some(specification) = specification() else {
            return;
        };
        let tests = specification.join("schema/test/config");
        for path in json_files(&tests.join("good")) {
            if foreign(&path) {
                continue;
            }
            let text = fs::read(&path).unwrap();
            let spec: Spec<'_> = parse("config.json", &text).unwrap();
            let errors: Vec<_> = validate(&spec, &Context::default())
                .into_iter()
                .filter(|finding| finding.severity == Severity::Error)
                .filter(|finding| !excused(&path, &finding.path))
                .collect();
            assert_eq!(errors, [], "{}", path.display());
        }
        for path in json_files(&tests.join("bad")) {
            if foreign(&path) {
                continue;
            }
            let text = fs::read(&path).unwrap();
            let refused = match parse::<Spec<'_>>("config.json", &text) {
                Ok(spec) => validate(&spec, &Context::default())
                    .iter()
                    .any(|finding| finding.severity == Severity::Error),
                Err(_) => true,
            };
            assert!(refused, "{}", path.display());
        }
    }

    /// Good examples, for a schema, that nobody can run: one is written for
    /// version 0.5.0-dev, one has no network namespace to move devices into.
    fn excused(path: &Path, finding: &str) -> bool {
        [
            ("spec-example.json", "ociVersion"),
            ("linux-netdevice.json", "linux.netDevices"),
        ]
        .iter()
        .any(|(name, place)| path.ends_with(name) && finding == *place)
    }

    /// Whether the example is for another system.
    fn foreign(path: &Path) -> bool {
        let name = path.file_name().unwrap().to_str().unwrap();
        ["freebsd", "zos"]
            .iter()
            .any(|system| name.starts_with(system))
    }

    /// Paths at which two documents differ.
    fn differences(one: &Value, other: &Value, at: &str, found: &mut Vec<String>) {
        match (one, other) {
            (Value::Object(one), Value::Object(other)) => {
                for name in one
                    .keys()
                    .chain(other.keys().filter(|name| !one.contains_key(*name)))
                {
                    let null = Value::Null;
                    let (one, other) = (one.get(name), other.get(name));
                    let (one, other) = (one.unwrap_or(&null), other.unwrap_or(&null));
                    differences(one, other, &format!("{at}.{name}"), found);
                }
            }
            (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
                for (index, (one, other)) in one.iter().zip(other).enumerate() {
                    differences(one, other, &format!("{at}[{index}]"), found);
                }
            }
            _ if one == other => {}
            _ => found.push(format!("{at}: {one} is not {other}")),
        }
    }

    /// Valid members that oci-spec 0.10 does not take, or loses: object and member.
    const REFUSED_BY_OCI_SPEC: &[(&str, &str)] = &[
        // It has names of its own for the flags.
        ("/process/scheduler", "flags"),
    ];

    /// What remains of a configuration when everything that says nothing is removed.
    fn core(value: Value) -> Option<Value> {
        match value {
            Value::Null => None,
            Value::Bool(false) => None,
            Value::String(text) if text.is_empty() => None,
            Value::Array(list) => {
                let list: Vec<Value> = list.into_iter().filter_map(core).collect();
                (!list.is_empty()).then_some(Value::Array(list))
            }
            Value::Object(members) => {
                let members: Map<String, Value> = members
                    .into_iter()
                    .filter_map(|(name, member)| Some((name, core(member)?)))
                    .collect();
                (!members.is_empty()).then_some(Value::Object(members))
            }
            other => Some(other),
        }
    }

    #[test]
    fn a_configuration_of_every_field_is_valid_and_nothing_of_it_is_lost() {
        let text = include_bytes!("data/everything.json");
        let spec: Spec<'_> = parse("everything.json", text).unwrap();
        let none: [knarr_runtime::spec::validate::Finding; 0] = [];
        assert_eq!(validate(&spec, &Context::default()), none);
        let written: Value = serde_json::from_slice(text).unwrap();
        let mut found = Vec::new();
        let ours = core(serde_json::to_value(spec).unwrap()).unwrap();
        differences(&ours, &core(written).unwrap(), "", &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn oci_spec_reads_the_same_values() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let mut files = json_files(&data);
        if let Some(specification) = specification() {
            files.extend(json_files(&specification.join("schema/test/config/good")));
        }
        let mut compared = 0;
        for path in files {
            let mut value = document(&path);
            for (place, name) in REFUSED_BY_OCI_SPEC {
                if let Some(Value::Object(members)) = value.pointer_mut(place) {
                    members.remove(*name);
                }
            }
            let text = value.to_string().into_bytes();
            let theirs = match serde_json::from_slice::<oci_spec::runtime::Spec>(&text) {
                Ok(theirs) => theirs,
                Err(error) => {
                    eprintln!("not compared: oci-spec refuses {}: {error}", path.display());
                    continue;
                }
            };
            let ours: Spec<'_> = parse("config.json", &text).unwrap();
            let mut ours = core(serde_json::to_value(ours).unwrap()).unwrap();
            let mut theirs = serde_json::to_value(theirs).unwrap();
            for section in ["solaris", "windows", "vm", "zos", "freebsd"] {
                theirs.as_object_mut().unwrap().remove(section);
            }
            // oci-spec keeps capabilities as sets, whose order is random.
            for document in [&mut ours, &mut theirs] {
                let sets = document.pointer_mut("/process/capabilities");
                for (_, set) in sets.and_then(Value::as_object_mut).into_iter().flatten() {
                    if let Some(list) = set.as_array_mut() {
                        list.sort_by_key(Value::to_string);
                    }
                }
            }
            let mut found = Vec::new();
            differences(&ours, &core(theirs).unwrap(), "", &mut found);
            assert!(found.is_empty(), "{}: {found:#?}", path.display());
            compared += 1;
        }
        assert!(compared >= 2, "neither of our own files was compared");
    }
}
