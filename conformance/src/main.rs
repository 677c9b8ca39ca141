//! Runs the OCI runtime validation suite against any runtime and reports.

fn main() {}
