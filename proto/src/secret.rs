//! `Debug` of messages that carry credentials: what is logged or told in an
//! error must not hold them.

use std::fmt::{self, Debug, Formatter};

use crate::cri::AuthConfig;
use crate::types::transfer::AuthResponse;

/// Shows that there is a secret, and not which.
fn hidden(secret: &str) -> &'static str {
    if secret.is_empty() { "" } else { "(hidden)" }
}

impl Debug for AuthConfig {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &hidden(&self.password))
            .field("auth", &hidden(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &hidden(&self.identity_token))
            .field("registry_token", &hidden(&self.registry_token))
            .finish()
    }
}

impl Debug for AuthResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthResponse")
            .field("auth_type", &self.auth_type())
            .field("secret", &hidden(&self.secret))
            .field("username", &self.username)
            .field("expire_at", &self.expire_at)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let secret = || "s3cret".to_owned();
        let config = AuthConfig {
            username: "somebody".into(),
            password: secret(),
            auth: secret(),
            identity_token: secret(),
            registry_token: secret(),
            ..AuthConfig::default()
        };
        let response = AuthResponse {
            secret: secret(),
            ..AuthResponse::default()
        };
        let shown = format!("{config:?} {response:?}");
        assert!(shown.contains("somebody"), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
