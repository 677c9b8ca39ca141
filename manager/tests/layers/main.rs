//! Layers, unpacked and made by the worker that knarrd is then: what comes out, seen from outside.
//!
//! Needs root: owners, devices and attributes of overlayfs are part of what is compared.

#[cfg(test)]
mod changes;
#[cfg(test)]
mod help;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod trees;
