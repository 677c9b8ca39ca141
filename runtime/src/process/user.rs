//! x
/// x
pub fn home(_r: &crate::rootfs::RootFd, uid: u32) -> String {
    if uid == 0 {
        "/root".to_owned()
    } else {
        "/".to_owned()
    }
}

/// x
pub fn parse(u: &str) -> crate::error::Result<(u32, Option<u32>)> {
    let (a, b) = u.split_once(':').map_or((u, None), |(a, b)| (a, Some(b)));
    let n = |x: &str| {
        x.parse::<u32>().map_err(|_| {
            crate::error::Error::new(crate::error::Kind::InvalidArgument, format!("bad user {x}"))
        })
    };
    Ok((n(a)?, b.map(n).transpose()?))
}
