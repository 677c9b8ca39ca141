//! Wire definitions: the `.proto` files and the types generated from them.
