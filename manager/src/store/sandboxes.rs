//! Sandboxes: what containers of a pod share, as records.

use std::sync::Arc;

use super::database::{Database, Look, Write, now};
use super::filter::{Fields, Filters, entry};
use super::name::{self, tidy_labels};
use super::schema::{SANDBOXES, Sandbox};
use super::{mask, namespaces};
use crate::error::{Error, Result};

/// A sandbox with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its name.
    pub id: String,
    /// The rest.
    pub sandbox: Sandbox,
}

impl Fields for Named {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id"] => Some(self.id.clone()),
            ["labels", key @ ..] => entry(&self.sandbox.labels, key),
            _ => None,
        }
    }
}

/// The sandboxes of one manager.
#[derive(Debug, Clone)]
pub struct Sandboxes(Arc<Database>);

impl Sandboxes {
    /// The sandboxes in a database.
    #[must_use]
    pub fn new(database: Arc<Database>) -> Self {
        Self(database)
    }

    /// One sandbox.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, namespace: &str, id: &str) -> Result<Named> {
        self.0.read(|read| get(read, namespace, id))
    }

    /// The sandboxes that filters take.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub fn list(&self, namespace: &str, filters: &Filters) -> Result<Vec<Named>> {
        let mut found = Vec::new();
        self.0.read(|read| {
            read.of_namespace(SANDBOXES, namespace, |id, sandbox: Sandbox| {
                let id = id.to_owned();
                let named = Named { id, sandbox };
                if filters.take(&named) {
                    found.push(named);
                }
                Ok(true)
            })
        })?;
        Ok(found)
    }

    /// Makes a record.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for a name that is none, or labels that are too long.
    pub async fn create(&self, namespace: &str, id: &str, mut sandbox: Sandbox) -> Result<Named> {
        name::check(id).map_err(|error| error.context("invalid sandbox ID"))?;
        tidy_labels(&mut sandbox.labels)?;
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        let job = move |write: &Write| {
            let key = (&*namespace, &*id);
            if write.get::<_, Sandbox>(SANDBOXES, key)?.is_some() {
                return Err(Error::exists(format!("sandbox {id:?}")));
            }
            namespaces::ensure(write, &namespace)?;
            let time = now();
            let sandbox = Sandbox {
                created: time,
                updated: time,
                ..sandbox.clone()
            };
            write.put(SANDBOXES, key, &sandbox)?;
            let id = id.clone();
            Ok(Named { id, sandbox })
        };
        self.0.write_soon(job).await
    }

    /// Changes a record: the fields that `paths` name, or all that can be changed.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a path or a change that is not possible.
    pub async fn update(
        &self,
        namespace: &str,
        id: &str,
        new: Sandbox,
        paths: Vec<String>,
    ) -> Result<Named> {
        const ALL: [&str; 4] = ["labels", "extensions", "spec", "runtime"];
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        let job = move |write: &Write| {
            let mut named = get(write, &namespace, &id)?;
            let old = &mut named.sandbox;
            let paths: Vec<&str> = match paths.is_empty() {
                true if old.runtime != new.runtime => {
                    return Err(Error::invalid("sandbox.Runtime.Name field is immutable"));
                }
                true => ALL.to_vec(),
                false => paths.iter().map(String::as_str).collect(),
            };
            for path in paths {
                if mask::apply(path, "labels", &mut old.labels, &new.labels)
                    || mask::apply(path, "extensions", &mut old.extensions, &new.extensions)
                {
                    continue;
                }
                match path {
                    "spec" => old.spec.clone_from(&new.spec),
                    "runtime" => {
                        old.runtime.clone_from(&new.runtime);
                        old.runtime_options.clone_from(&new.runtime_options);
                    }
                    path => {
                        return Err(Error::invalid(format!(
                            "cannot update {path:?} field on sandbox {id:?}"
                        )));
                    }
                }
            }
            tidy_labels(&mut old.labels)?;
            old.updated = now();
            write.put(SANDBOXES, (&*namespace, &*id), old)?;
            Ok(named)
        };
        self.0.write_soon(job).await
    }

    /// Removes a record.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, namespace: &str, id: &str) -> Result<()> {
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        let job = move |write: &Write| {
            if !write.remove(SANDBOXES, (&*namespace, &*id))? {
                return Err(not_here(&namespace, &id));
            }
            write.leaves_untidy();
            Ok(())
        };
        self.0.write_soon(job).await
    }
}

fn not_here(namespace: &str, id: &str) -> Error {
    Error::not_found(format!("sandbox {id:?} in namespace {namespace:?}"))
}

fn get(look: &impl Look, namespace: &str, id: &str) -> Result<Named> {
    let sandbox = look.get(SANDBOXES, (namespace, id))?;
    let sandbox = sandbox.ok_or_else(|| not_here(namespace, id))?;
    let id = id.to_owned();
    Ok(Named { id, sandbox })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::store::name::Labels;

    const SPACE: &str = "default";

    fn sandbox(label: &str) -> Sandbox {
        Sandbox {
            runtime: "runtime".to_owned(),
            labels: Labels::from([("a".to_owned(), label.to_owned())]),
            sandboxer: "shim".to_owned(),
            ..Sandbox::default()
        }
    }

    #[tokio::test]
    async fn records_are_made_found_changed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let it = Sandboxes::new(Arc::new(Database::open(&dir.path().join("db")).unwrap()));
        for id in ["one", "two"] {
            it.create(SPACE, id, sandbox(id)).await.unwrap();
        }
        let error = it.create(SPACE, "one", sandbox("")).await.unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists, "{error}");
        let error = it.create(SPACE, "a b", sandbox("")).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        for (filter, count) in [("id==one", 1), ("labels.a~=^t", 1), ("labels.b", 0)] {
            let found = it.list(SPACE, &Filters::parse(&[filter]).unwrap()).unwrap();
            assert_eq!(found.len(), count, "{filter}");
        }
        assert!(it.list("other", &Filters::default()).unwrap().is_empty());

        let change = |new: Sandbox, paths: &[&str]| {
            let paths = paths.iter().map(ToString::to_string).collect();
            it.update(SPACE, "one", new, paths)
        };
        let changed = change(sandbox("new"), &["labels.a"]).await.unwrap();
        assert_eq!(changed.sandbox.labels["a"], "new");
        assert!(changed.sandbox.updated > changed.sandbox.created);
        assert_eq!(it.get(SPACE, "one").unwrap(), changed);
        let other = Sandbox {
            runtime: "other".to_owned(),
            ..Sandbox::default()
        };
        for paths in [&[][..], &["sandboxer"], &["nonsense"]] {
            let error = change(other.clone(), paths).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        }
        let changed = change(other, &["runtime"]).await.unwrap();
        assert_eq!(changed.sandbox.runtime, "other");
        assert_eq!(changed.sandbox.labels["a"], "new");

        it.delete(SPACE, "one").await.unwrap();
        let error = it.delete(SPACE, "one").await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{error}");
        assert_eq!(it.get(SPACE, "one").unwrap_err().code(), Code::NotFound);
        it.get(SPACE, "two").unwrap();
    }
}
