//! Container manager: images, snapshots, container lifecycle and events.
